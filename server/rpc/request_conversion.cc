#include "server/rpc/request_conversion.h"

#include <algorithm>
#include <cmath>
#include <optional>
#include <type_traits>
#include <utility>

#include "engine/base/status_macros.h"
#include "engine/base/str_cat.h"
#include "server/rpc/attention_conversion.h"
#include "server/rpc/field_errors.h"
#include "server/rpc/prompt_conversion.h"
#include "server/rpc/request_limits.h"
#include "server/rpc/target_conversion.h"

namespace sparseserve {
namespace {

constexpr double kSmallestTopP = 1e-9;

// Sets `result` if the field is present, whose presence protoc spells has_x().
template <typename Given, typename Value>
void ConvertNumber(std::string_view field, bool present, Given value,
                   std::pair<double, double> range, Value& result,
                   FieldErrors& errors) {
  if (!present) return;
  if constexpr (std::is_integral_v<Given>) {
    errors.CheckRange(field, int64_t{value}, static_cast<int64_t>(range.first),
                      static_cast<int64_t>(range.second));
  } else {
    errors.CheckRange(field, double{value}, range.first, range.second);
  }
  // Keeps the conversion defined for what was just refused.
  if (value >= range.first && value <= range.second) {
    result = static_cast<Value>(value);
  }
}

void ConvertSampling(const v1::SamplingParams& from, const ServedModel& model,
                     SamplingParams& to, FieldErrors& errors) {
  const auto number = [&errors](std::string_view name, bool present, auto value,
                                double low, double high, auto& result) {
    ConvertNumber(StrCat("options.sampling.", name), present, value,
                  {low, high}, result, errors);
  };
  number("temperature", from.has_temperature(), from.temperature(), 0, 10,
         to.temperature);
  number("top_k", from.has_top_k(), from.top_k(), 0, 1'000'000, to.top_k);
  if (from.has_top_p() && !(from.top_p() > 0 && from.top_p() <= 1)) {
    errors.Add("options.sampling.top_p", StrCat(from.top_p()),
               "above 0 and at most 1");
  } else if (from.has_top_p()) {
    // As a float it must not become 0.
    to.top_p = static_cast<float>(std::max(from.top_p(), kSmallestTopP));
  }
  number("min_p", from.has_min_p(), from.min_p(), 0, 1, to.min_p);
  number("repetition_penalty", from.has_repetition_penalty(),
         from.repetition_penalty(), 0.01, 100, to.repetition_penalty);
  number("presence_penalty", from.has_presence_penalty(),
         from.presence_penalty(), -2, 2, to.presence_penalty);
  number("frequency_penalty", from.has_frequency_penalty(),
         from.frequency_penalty(), -2, 2, to.frequency_penalty);

  if (from.logit_bias().size() > kMaxLogitBiases) {
    errors.Add("options.sampling.logit_bias",
               StrCat(from.logit_bias().size(), " entries"),
               StrCat("at most ", kMaxLogitBiases, " entries"));
    return;
  }
  for (const auto& [token, bias] : from.logit_bias()) {
    const std::string field =
        StrCat("options.sampling.logit_bias[", token, "]");
    if (token < 0 || token >= model.info.vocab_size) {
      errors.Add(
          field, "",
          StrCat("keyed by a token id from 0 to ", model.info.vocab_size - 1));
    }
    errors.CheckRange(field, bias, -100.0, 100.0);
    to.logit_bias.emplace_back(token, static_cast<float>(bias));
  }
  // A map has no order; the sum of floats may depend on it.
  std::sort(to.logit_bias.begin(), to.logit_bias.end());
}

void ConvertStop(const v1::StopConditions& from, const ServedModel& model,
                 Request& to, FieldErrors& errors) {
  ConvertNumber("options.stop.max_output_tokens", from.has_max_output_tokens(),
                from.max_output_tokens(), {1, model.max_request_tokens},
                to.max_output_tokens, errors);
  const int most = to.max_output_tokens > 0 ? to.max_output_tokens
                                            : model.default_max_output_tokens;
  ConvertNumber("options.stop.min_output_tokens", from.has_min_output_tokens(),
                from.min_output_tokens(), {0, most}, to.min_output_tokens,
                errors);
  if (from.strings_size() > kMaxStopStrings) {
    errors.Add("options.stop.strings", StrCat(from.strings_size(), " entries"),
               StrCat("at most ", kMaxStopStrings, " entries"));
  } else {
    for (int i = 0; i < from.strings_size(); ++i) {
      const std::string& text = from.strings(i);
      if (text.empty() || text.size() > kMaxStopStringBytes) {
        errors.Add(StrCat("options.stop.strings[", i, "]"),
                   StrCat(text.size(), " bytes"),
                   StrCat("from 1 to ", kMaxStopStringBytes, " bytes"));
      }
    }
    to.stop_strings = {from.strings().begin(), from.strings().end()};
  }
  if (from.token_ids_size() > kMaxStopTokens) {
    errors.Add("options.stop.token_ids",
               StrCat(from.token_ids_size(), " entries"),
               StrCat("at most ", kMaxStopTokens, " entries"));
  } else {
    CheckTokenIds("options.stop.token_ids", from.token_ids(), model, errors);
    to.stop_token_ids = {from.token_ids().begin(), from.token_ids().end()};
  }
  to.ignore_eos = from.ignore_eos();
}

}  // namespace

absl::StatusOr<std::unique_ptr<Request>> ConvertOptions(
    const v1::GenerateOptions& options, const ServedModel& model,
    const std::function<uint64_t()>& draw_seed) {
  RETURN_IF_ERROR(CheckModelName("options.model", options.model(), model,
                                 /*may_be_empty=*/true));
  FieldErrors errors;
  auto request = std::make_unique<Request>();
  CheckPrompt(options, model, errors);
  ConvertSampling(options.sampling(), model, request->sampling, errors);
  ConvertStop(options.stop(), model, *request, errors);
  request->target =
      ConvertTarget("options.latency_target", options.latency_target(), errors);
  if (options.has_logprobs()) {
    ConvertNumber("options.logprobs.top_k", true, options.logprobs().top_k(),
                  {0, kMaxLogprobs}, request->sampling.logprobs, errors);
  }
  ConvertNumber("options.max_divergence", options.has_max_divergence(),
                options.max_divergence(), {0, 10}, request->max_divergence,
                errors);
  if (options.cache_salt().size() > kMaxCacheSaltBytes) {
    errors.Add("options.cache_salt",
               StrCat(options.cache_salt().size(), " bytes"),
               StrCat("at most ", kMaxCacheSaltBytes, " bytes"));
  }
  request->cache_salt = options.cache_salt();
  const std::optional<PatternSpec> pattern =
      CheckChoice(options.attention(), errors);
  ConvertNumber("options.priority", true, options.priority(),
                {kLeastPriority, kMostPriority}, request->priority, errors);
  RETURN_IF_ERROR(errors.ToStatus());
  ASSIGN_OR_RETURN(request->attention,
                   DecideAttention(options.attention(), pattern, model));
  request->seed_was_given = options.sampling().has_seed();
  request->sampling.seed =
      request->seed_was_given ? static_cast<uint64_t>(options.sampling().seed())
                              : draw_seed();
  return request;
}

}  // namespace sparseserve
