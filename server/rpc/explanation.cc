#include "server/rpc/explanation.h"

#include <algorithm>
#include <string>
#include <utility>

#include "engine/base/check.h"
#include "engine/base/status_macros.h"
#include "engine/base/str_cat.h"
#include "engine/profile/head_measures.h"
#include "engine/tokenizer/utf8_decoder.h"
#include "server/rpc/field_errors.h"
#include "server/rpc/method_names.h"
#include "server/rpc/request_limits.h"
#include "server/rpc/status_details.h"

namespace sparseserve {
namespace {

AttentionProfile::Shape ShapeOf(const ModelInfo& model, int tokens) {
  return {model.layers, model.heads, model.kv_heads, tokens};
}

void CheckAbsent(const v1::GenerateOptions& options, FieldErrors& errors) {
  const auto check = [&errors](const char* field, bool present) {
    if (present) {
      errors.Add(StrCat("options.", field), "",
                 "absent: an explanation draws no text");
    }
  };
  check("sampling", options.has_sampling());
  check("stop", options.has_stop());
  check("logprobs", options.has_logprobs());
  check("latency_target", options.has_latency_target());
  check("max_divergence", options.has_max_divergence());
  check("priority", options.priority() != 0);
}

void CheckQueries(const v1::ExplainAttentionRequest& request,
                  FieldErrors& errors) {
  const auto& positions = request.query_positions();
  if (positions.size() > kMaxExplainedQueries) {
    errors.Add("query_positions", StrCat(positions.size(), " positions"),
               StrCat("at most ", kMaxExplainedQueries, " positions"));
    return;
  }
  int64_t least = 0;
  for (int i = 0; i < positions.size(); ++i) {
    if (positions[i] < least) {
      errors.Add(StrCat("query_positions[", i, "]"), StrCat(positions[i]),
                 i == 0 ? "at least 0"
                        : StrCat("above ", least - 1, ", the one before"));
    }
    least = std::max<int64_t>(least, int64_t{positions[i]} + 1);
  }
}

v1::HeadProfile::Class ToProto(HeadClass head_class) {
  switch (head_class) {
    case HeadClass::kLocal:
      return v1::HeadProfile::LOCAL;
    case HeadClass::kSink:
      return v1::HeadProfile::SINK;
    case HeadClass::kSlash:
      return v1::HeadProfile::SLASH;
    case HeadClass::kVertical:
      return v1::HeadProfile::VERTICAL;
    case HeadClass::kDiffuse:
      return v1::HeadProfile::DIFFUSE;
    case HeadClass::kRetrieval:
      return v1::HeadProfile::RETRIEVAL;
  }
  SPARSESERVE_CHECK(false && "unknown class of heads");
}

void SetMeasures(const HeadMeasures& from, v1::HeadProfile& to) {
  to.set_head_class(ToProto(from.head_class));
  to.set_entropy(from.entropy);
  to.set_relative_entropy(from.relative_entropy);
  to.set_effective_keys(from.effective_keys);
  to.set_mean_distance(from.mean_distance);
  to.set_mean_distance_without_sink(from.mean_distance_without_sink);
  to.set_median_distance(from.median_distance);
  to.set_distance_90(from.distance_90);
  for (const double share : from.locality) {
    to.add_locality(static_cast<float>(share));
  }
  to.set_near_share(from.near_share);
  to.set_sink_1(from.sink_1);
  to.set_sink_4(from.sink_4);
  to.set_sink_64(from.sink_64);
  to.set_vertical_share(from.vertical_share);
  to.set_slash_share(from.slash_share);
  for (const double share : from.block_recall) {
    to.add_block_recall(static_cast<float>(share));
  }
  to.set_blocks_90(from.blocks_90);
  to.set_recall(from.recall);
  to.set_low_recall_share(from.low_recall_share);
  to.set_density(from.density);
}

// Joined, the pieces are the prompt: a character of several tokens stands with
// its last.
void SetPieces(const std::vector<TokenId>& prompt, const Tokenizer& tokenizer,
               v1::ExplainAttentionResponse& response) {
  Utf8Decoder decoder;
  for (const TokenId token : prompt) {
    response.add_token_ids(token);
    response.add_pieces(decoder.Push(tokenizer.TokenBytes(token)));
  }
  *response.mutable_pieces()->rbegin() += decoder.Flush();
}

void SetHeads(const AttentionProfile& profile,
              v1::ExplainAttentionResponse& response) {
  const AttentionProfile::Shape& shape = profile.shape();
  double recall = 0;
  for (int32_t layer = 0; layer < shape.layers; ++layer) {
    for (int32_t head = 0; head < shape.heads; ++head) {
      v1::HeadProfile& proto = *response.add_heads();
      proto.set_layer(layer);
      proto.set_head(head);
      proto.set_kv_head(head / (shape.heads / shape.kv_heads));
      SetMeasures(MeasuresOf(profile, layer, head), proto);
      recall += proto.recall();
    }
  }
  response.mutable_attention()->set_recall_estimate(recall /
                                                    response.heads_size());
}

void SetQuery(const AttentionProfile& profile, int32_t query,
              v1::QueryAttention& proto) {
  const AttentionProfile::Shape& shape = profile.shape();
  proto.set_position(profile.queries()[query]);
  for (int32_t layer = 0; layer < shape.layers; ++layer) {
    for (int32_t head = 0; head < shape.heads; ++head) {
      v1::QueryAttention::Head& of_head = *proto.add_heads();
      of_head.set_layer(layer);
      of_head.set_head(head);
      for (const AttendedKey& key : profile.attended(query, layer, head)) {
        if (key.position < 0) break;
        of_head.add_positions(key.position);
        of_head.add_weights(key.weight);
      }
    }
  }
}

}  // namespace

int MaxExplainedTokens(const ModelInfo& model, int max_prompt_tokens) {
  // Bytes grow with every token, so half-way between two the answer is known.
  int low = 0;
  int high = std::min(kMaxExplainedTokens, max_prompt_tokens);
  while (low < high) {
    const int middle = low + (high - low + 1) / 2;
    if (AttentionProfile::Bytes(ShapeOf(model, middle)) <= kMaxProfileBytes) {
      low = middle;
    } else {
      high = middle - 1;
    }
  }
  return low;
}

absl::StatusOr<ExplanationOptions> CheckExplanation(
    const v1::ExplainAttentionRequest& request, const ServedModel& model) {
  if (model.max_explained_tokens == 0) {
    return MethodDisabled(kExplainAttentionMethod, "--explain");
  }
  FieldErrors errors;
  CheckAbsent(request.options(), errors);
  CheckQueries(request, errors);
  const int top_keys =
      request.has_top_keys() ? request.top_keys() : kDefaultTopKeys;
  errors.CheckRange("top_keys", int64_t{top_keys}, 1, kMaxTopKeys);
  RETURN_IF_ERROR(errors.ToStatus());

  const int64_t queries = std::max(request.query_positions_size(), 1);
  const int64_t rows = queries * model.info.layers * model.info.heads;
  if (rows * top_keys > kMaxAttendedKeys) {
    errors.Add("top_keys", StrCat(top_keys),
               StrCat("at most ", kMaxAttendedKeys / rows, " with ", queries,
                      " queries in ", rows / queries, " heads"));
  }
  RETURN_IF_ERROR(errors.ToStatus());
  return ExplanationOptions{
      {request.query_positions().begin(), request.query_positions().end()},
      top_keys};
}

v1::GenerateOptions OptionsOfRun(const v1::GenerateOptions& options) {
  v1::GenerateOptions run = options;
  run.mutable_sampling()->set_temperature(0);
  run.mutable_sampling()->set_seed(0);
  run.mutable_stop()->set_max_output_tokens(1);
  return run;
}

absl::StatusOr<std::shared_ptr<AttentionProfile>> ExplanationDesk::MakeProfile(
    ExplanationOptions options, int prompt_tokens, const ServedModel& model) {
  if (prompt_tokens > model.max_explained_tokens) {
    return PromptTooLong("options.prompt", prompt_tokens,
                         model.max_explained_tokens, "tokens");
  }
  if (options.queries.empty()) options.queries.push_back(prompt_tokens - 1);
  if (options.queries.back() >= prompt_tokens) {
    FieldErrors errors;
    errors.Add(StrCat("query_positions[", options.queries.size() - 1, "]"),
               StrCat(options.queries.back()),
               StrCat("below ", prompt_tokens, ", the prompt's tokens"));
    return errors.ToStatus();
  }
  MutexLock lock(mu_);
  if (!latest_.expired()) return ExplanationRuns();
  auto profile = std::make_shared<AttentionProfile>(
      ShapeOf(model.info, prompt_tokens),
      AttentionProfile::Options{.queries = std::move(options.queries),
                                .top_keys = options.top_keys});
  latest_ = profile;
  return profile;
}

v1::ExplainAttentionResponse ToExplanation(const AttentionProfile& profile,
                                           const std::vector<TokenId>& prompt,
                                           v1::GenerationReport report,
                                           const Tokenizer& tokenizer) {
  v1::ExplainAttentionResponse response;
  response.set_request_id(report.request_id());
  response.set_model(report.model());
  SetPieces(prompt, tokenizer, response);
  *response.mutable_attention() = std::move(*report.mutable_attention());
  *response.mutable_timings() = std::move(*report.mutable_timings());
  response.set_sampled_rows(static_cast<int>(profile.sampled_rows()));
  SetHeads(profile, response);
  for (int32_t i = 0; i < static_cast<int32_t>(profile.queries().size()); ++i) {
    SetQuery(profile, i, *response.add_queries());
  }
  return response;
}

}  // namespace sparseserve
