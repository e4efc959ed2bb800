#include "server/rpc/plan_profile_conversion.h"

#include <algorithm>
#include <array>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <limits>
#include <set>
#include <string_view>
#include <system_error>
#include <type_traits>
#include <utility>
#include <vector>

#include "engine/base/status_macros.h"
#include "engine/base/str_cat.h"
#include "engine/pattern/kernel_version.h"
#include "google/protobuf/text_format.h"
#include "server/policy/named_plan.h"
#include "server/policy/pattern_decision.h"
#include "server/rpc/attention_conversion.h"
#include "server/rpc/field_errors.h"
#include "server/rpc/pattern_to_proto.h"
#include "server/rpc/text_message.h"

namespace sparseserve {
namespace {

constexpr int kFormatVersion = 1;
constexpr uintmax_t kMaxFileBytes = uintmax_t{16} << 20;
constexpr int kMaxCalibratedPlans = 32;
constexpr int kMaxBands = 64;
constexpr double kMaxDivergence = 1e6;
constexpr int64_t kMaxCount = std::numeric_limits<int64_t>::max();

// Whether the profile is of this program and model at all.
absl::Status CheckHolds(const v1::PlanProfile& proto, const ModelInfo& model) {
  const v1::ProfiledModel& profiled = proto.model();
  const auto differs = [](std::string_view field, const auto& value,
                          std::string_view of, const auto& here) {
    return absl::FailedPreconditionError(
        StrCat(field, " is ", value, ", but ", of, " is ", here));
  };
  if (proto.format_version() != kFormatVersion) {
    return differs("format_version", proto.format_version(),
                   "what this program reads", kFormatVersion);
  }
  if (model.weights_sha256.empty()) {
    return absl::FailedPreconditionError(
        "the engine was not asked for the fingerprint of its weights");
  }
  if (profiled.weights_sha256() != model.weights_sha256) {
    return differs("model.weights_sha256",
                   StrCat("\"", Excerpt(profiled.weights_sha256(), 64), "\" (",
                          Excerpt(profiled.name(), 96), ")"),
                   "that of this model",
                   StrCat("\"", model.weights_sha256, "\" (", model.name, ")"));
  }
  if (profiled.kernel_version() != kKernelVersion) {
    return differs("model.kernel_version", profiled.kernel_version(),
                   "this program's", kKernelVersion);
  }
  if (profiled.layers() != model.layers) {
    return differs("model.layers", profiled.layers(), "this model's",
                   model.layers);
  }
  if (profiled.kv_heads() != model.kv_heads) {
    return differs("model.kv_heads", profiled.kv_heads(), "this model's",
                   model.kv_heads);
  }
  if (!model.pruned_heads.empty()) {
    return absl::FailedPreconditionError(
        StrCat("prune_heads leaves out heads of ", model.pruned_heads.size(),
               " layers, and profiles are of whole models"));
  }
  return absl::OkStatus();
}

std::vector<RecallReference> ConvertRecall(std::string_view field,
                                           const v1::PlanQuality& proto,
                                           const ModelInfo& model,
                                           FieldErrors& errors) {
  std::vector<RecallReference> groups;
  if (proto.recall_size() < 1 || proto.recall_size() > model.layers) {
    errors.Add(StrCat(field, ".recall"), StrCat(proto.recall_size(), " groups"),
               StrCat("1 to ", model.layers, " groups of layers"));
    return groups;
  }
  int next_layer = 0;
  for (int i = 0; i < proto.recall_size(); ++i) {
    const v1::RecallReference& group = proto.recall(i);
    const std::string name = StrCat(field, ".recall[", i, "]");
    errors.CheckRange(name + ".first_layer", int64_t{group.first_layer()},
                      next_layer, next_layer);
    errors.CheckRange(
        name + ".last_layer", int64_t{group.last_layer()},
        i + 1 == proto.recall_size() ? model.layers - 1 : group.first_layer(),
        model.layers - 1);
    next_layer = std::min(group.last_layer(), model.layers - 1) + 1;
    errors.CheckRange(name + ".mean", group.mean(), 0, 1);
    errors.CheckRange(name + ".p5", group.p5(), 0, 1);
    errors.CheckRange(name + ".low_share", group.low_share(), 0, 1);
    errors.CheckRange(name + ".text_p5", group.text_p5(), 0, 1);
    groups.push_back({group.first_layer(), group.last_layer(), group.mean(),
                      group.p5(), group.low_share(), group.text_p5()});
  }
  return groups;
}

PlanQuality ConvertBand(std::string_view field, const v1::PlanQuality& proto,
                        int least_tokens, const ModelInfo& model,
                        FieldErrors& errors) {
  const auto check = [&](std::string_view name, auto value, auto low,
                         auto high) {
    using Number = std::conditional_t<std::is_floating_point_v<decltype(value)>,
                                      double, int64_t>;
    errors.CheckRange(StrCat(field, ".", name), Number{value},
                      static_cast<Number>(low), static_cast<Number>(high));
  };
  check("min_tokens", proto.min_tokens(), least_tokens, model.context_tokens);
  check("max_tokens", proto.max_tokens(), proto.min_tokens(),
        model.context_tokens);
  check("sequences", proto.sequences(), 1, std::numeric_limits<int>::max());
  check("rows", proto.rows(), int64_t{1}, kMaxCount);
  check("divergence_mean", proto.divergence_mean(), 0, kMaxDivergence);
  check("divergence_upper", proto.divergence_upper(), proto.divergence_mean(),
        kMaxDivergence);
  check("divergence_p99", proto.divergence_p99(), 0, kMaxDivergence);
  check("top1_agreement", proto.top1_agreement(), 0, 1);
  check("perplexity_ratio", proto.perplexity_ratio(), 1e-6, 1e6);
  check("density_p05", proto.density_p05(), 0, 1);
  check("density_p50", proto.density_p50(), proto.density_p05(), 1);
  check("density_p95", proto.density_p95(), proto.density_p50(), 1);
  PlanQuality quality;
  quality.min_tokens = proto.min_tokens();
  quality.max_tokens = proto.max_tokens();
  quality.sequences = proto.sequences();
  quality.rows = proto.rows();
  quality.divergence_mean = proto.divergence_mean();
  quality.divergence_upper = proto.divergence_upper();
  quality.divergence_p99 = proto.divergence_p99();
  quality.top1_agreement = proto.top1_agreement();
  quality.perplexity_ratio = proto.perplexity_ratio();
  quality.density_p05 = proto.density_p05();
  quality.density_p50 = proto.density_p50();
  quality.density_p95 = proto.density_p95();
  quality.recall = ConvertRecall(field, proto, model, errors);
  return quality;
}

using Bands = google::protobuf::RepeatedPtrField<v1::PlanQuality>;

// `rules` says whether the plan's choice rules the phase: bands of one that it
// leaves dense would promise what nobody measured.
std::vector<PlanQuality> ConvertBands(std::string_view field,
                                      const Bands& protos, bool rules,
                                      const ModelInfo& model,
                                      FieldErrors& errors) {
  std::vector<PlanQuality> bands;
  const int most = rules ? kMaxBands : 0;
  if (protos.size() > most) {
    errors.Add(field, StrCat(protos.size(), " bands"),
               rules ? StrCat("at most ", most, " bands")
                     : "empty, for the plan's patterns leave it dense");
    return bands;
  }
  int least_tokens = 1;
  for (int i = 0; i < protos.size(); ++i) {
    bands.push_back(ConvertBand(StrCat(field, "[", i, "]"), protos[i],
                                least_tokens, model, errors));
    least_tokens = std::min(bands.back().max_tokens, model.context_tokens) + 1;
  }
  return bands;
}

// What can be told of the choice without the model.
PlanRule ConvertRule(std::string_view field, const v1::CalibratedPlan& proto,
                     FieldErrors& errors) {
  PlanRule rule = {.name = proto.name()};
  switch (proto.choice_case()) {
    case v1::CalibratedPlan::kPattern:
      rule.pattern =
          ConvertPattern(StrCat(field, ".pattern"), proto.pattern(), errors)
              .value_or(DensePattern());
      break;
    case v1::CalibratedPlan::kMap:
      rule.map = ConvertMap(StrCat(field, ".map"), proto.map(), errors);
      break;
    case v1::CalibratedPlan::CHOICE_NOT_SET:
      errors.Add(field, "", "a pattern or a map");
      break;
  }
  return rule;
}

// The first band that both have; {null, null} if there is none.
std::pair<const PlanQuality*, const PlanQuality*> FirstCommon(
    const std::vector<PlanQuality>& a, const std::vector<PlanQuality>& b) {
  for (const PlanQuality& one : a) {
    for (const PlanQuality& other : b) {
      if (one.min_tokens == other.min_tokens &&
          one.max_tokens == other.max_tokens) {
        return {&one, &other};
      }
    }
  }
  return {nullptr, nullptr};
}

// Of plans that rule prompts, and of those that rule output alone, each must
// be worse and sparser than the one before it.
void CheckOrder(const std::vector<CalibratedPlan>& plans, FieldErrors& errors) {
  std::array<const CalibratedPlan*, kPhases> before = {};
  for (size_t i = 0; i < plans.size(); ++i) {
    const auto phase = static_cast<int>(
        plans[i].quality[0].empty() ? Phase::kDecode : Phase::kPrefill);
    const CalibratedPlan* const last = std::exchange(before[phase], &plans[i]);
    if (last == nullptr) continue;
    const auto [better, worse] =
        FirstCommon(last->quality[phase], plans[i].quality[phase]);
    if (better == nullptr) continue;
    const std::string band =
        StrCat(phase == 0 ? "prefill" : "decode", " of ", better->min_tokens,
               " to ", better->max_tokens, " tokens");
    const std::string field = StrCat("plans[", i, "]");
    if (worse->divergence_upper < better->divergence_upper) {
      errors.Add(StrCat(field, ".divergence_upper, ", band),
                 StrCat(worse->divergence_upper),
                 StrCat("at least ", better->divergence_upper, ", which plans[",
                        i, "-1] has: the best comes first"));
    }
    if (worse->density_p50 > better->density_p50) {
      errors.Add(StrCat(field, ".density_p50, ", band),
                 StrCat(worse->density_p50),
                 StrCat("at most ", better->density_p50,
                        ", for a plan with less divergence has that"));
    }
  }
}

v1::PlanQuality ToProto(const PlanQuality& quality) {
  v1::PlanQuality proto;
  proto.set_min_tokens(quality.min_tokens);
  proto.set_max_tokens(quality.max_tokens);
  proto.set_sequences(quality.sequences);
  proto.set_rows(quality.rows);
  proto.set_divergence_mean(quality.divergence_mean);
  proto.set_divergence_upper(quality.divergence_upper);
  proto.set_divergence_p99(quality.divergence_p99);
  proto.set_top1_agreement(quality.top1_agreement);
  proto.set_perplexity_ratio(quality.perplexity_ratio);
  proto.set_density_p05(quality.density_p05);
  proto.set_density_p50(quality.density_p50);
  proto.set_density_p95(quality.density_p95);
  for (const RecallReference& group : quality.recall) {
    v1::RecallReference& own = *proto.add_recall();
    own.set_first_layer(group.first_layer);
    own.set_last_layer(group.last_layer);
    own.set_mean(group.mean);
    own.set_p5(group.p5);
    own.set_low_share(group.low_share);
    own.set_text_p5(group.text_p5);
  }
  return proto;
}

v1::CalibratedPlan ToProto(const CalibratedPlan& plan) {
  v1::CalibratedPlan proto;
  proto.set_name(plan.name);
  if (plan.choice.map != nullptr) {
    *proto.mutable_map() = ToProto(*plan.choice.map);
  } else {
    *proto.mutable_pattern() = ToProto(plan.choice.pattern);
  }
  for (const PlanQuality& band :
       plan.quality[static_cast<int>(Phase::kPrefill)]) {
    *proto.add_prefill() = ToProto(band);
  }
  for (const PlanQuality& band :
       plan.quality[static_cast<int>(Phase::kDecode)]) {
    *proto.add_decode() = ToProto(band);
  }
  return proto;
}

absl::Status AtPath(const std::string& path, const absl::Status& status) {
  return absl::Status(status.code(), StrCat(path, ": ", status.message()));
}

absl::StatusOr<std::string> ReadBounded(const std::string& path) {
  std::error_code error;
  const auto type = std::filesystem::status(path, error).type();
  if (type == std::filesystem::file_type::not_found) {
    return absl::NotFoundError("there is no such file");
  }
  if (type != std::filesystem::file_type::regular) {
    return absl::InvalidArgumentError("is not a regular file");
  }
  const uintmax_t bytes = std::filesystem::file_size(path, error);
  if (!error && bytes > kMaxFileBytes) {
    return absl::InvalidArgumentError(
        StrCat("has ", bytes, " bytes; a profile has at most ", kMaxFileBytes));
  }
  std::ifstream file(path, std::ios::binary);
  // It may grow meanwhile.
  std::string text(kMaxFileBytes, '\0');
  if (error || !file) return absl::NotFoundError("cannot be read");
  file.read(text.data(), static_cast<std::streamsize>(text.size()));
  text.resize(static_cast<size_t>(file.gcount()));
  return text;
}

}  // namespace

absl::StatusOr<PlanProfile> ConvertPlanProfile(const v1::PlanProfile& proto,
                                               const ModelInfo& model) {
  RETURN_IF_ERROR(CheckHolds(proto, model));
  FieldErrors errors;
  if (proto.plans_size() > kMaxCalibratedPlans) {
    errors.Add("plans", StrCat(proto.plans_size(), " plans"),
               StrCat("at most ", kMaxCalibratedPlans, " plans"));
    return errors.ToStatus();
  }
  std::set<std::string> names = {kDensePlan};
  std::vector<PlanRule> rules;
  for (int i = 0; i < proto.plans_size(); ++i) {
    const std::string field = StrCat("plans[", i, "]");
    CheckPlanName(StrCat(field, ".name"), proto.plans(i).name(), names, errors);
    rules.push_back(ConvertRule(field, proto.plans(i), errors));
  }
  RETURN_IF_ERROR(errors.ToStatus());
  ASSIGN_OR_RETURN(const std::vector<NamedPlan> named,
                   ResolvePlans(rules, model, "plans"));
  PlanProfile profile;
  for (int i = 0; i < proto.plans_size(); ++i) {
    const v1::CalibratedPlan& own = proto.plans(i);
    const std::string field = StrCat("plans[", i, "]");
    const PatternTraits traits = TraitsOf(named[i].choice);
    CalibratedPlan plan = {named[i].name, named[i].choice};
    plan.quality = {ConvertBands(field + ".prefill", own.prefill(),
                                 traits.rules_prefill, model, errors),
                    ConvertBands(field + ".decode", own.decode(),
                                 traits.rules_decode, model, errors)};
    if (own.prefill().empty() && own.decode().empty()) {
      errors.Add(field, "", "measured in at least one band of lengths");
    }
    profile.plans.push_back(std::move(plan));
  }
  RETURN_IF_ERROR(errors.ToStatus());
  CheckOrder(profile.plans, errors);
  RETURN_IF_ERROR(errors.ToStatus());
  profile.model = {
      proto.model().name(), model.weights_sha256,           model.layers,
      model.kv_heads,       proto.model().context_tokens(), kKernelVersion};
  profile.text = {proto.text().sha256(), proto.text().tokens(),
                  proto.text().held_out_tokens(),
                  static_cast<uint64_t>(proto.text().seed())};
  return profile;
}

v1::PlanProfile ToProto(const PlanProfile& profile) {
  v1::PlanProfile proto;
  proto.set_format_version(kFormatVersion);
  v1::ProfiledModel& model = *proto.mutable_model();
  model.set_name(profile.model.name);
  model.set_weights_sha256(profile.model.weights_sha256);
  model.set_layers(profile.model.layers);
  model.set_kv_heads(profile.model.kv_heads);
  model.set_context_tokens(profile.model.context_tokens);
  model.set_kernel_version(profile.model.kernel_version);
  v1::CalibrationText& text = *proto.mutable_text();
  text.set_sha256(profile.text.sha256);
  text.set_tokens(profile.text.tokens);
  text.set_held_out_tokens(profile.text.held_out_tokens);
  text.set_seed(profile.text.seed);
  for (const CalibratedPlan& plan : profile.plans) {
    *proto.add_plans() = ToProto(plan);
  }
  return proto;
}

absl::StatusOr<PlanProfile> ReadPlanProfile(const std::string& path,
                                            const ModelInfo& model) {
  const absl::StatusOr<std::string> text = ReadBounded(path);
  if (!text.ok()) return AtPath(path, text.status());
  v1::PlanProfile proto;
  // Its messages begin with the path.
  RETURN_IF_ERROR(ParseText(*text, path, proto));
  absl::StatusOr<PlanProfile> profile = ConvertPlanProfile(proto, model);
  if (!profile.ok()) return AtPath(path, profile.status());
  return profile;
}

absl::Status WritePlanProfile(const std::string& path,
                              const std::string& comment,
                              const PlanProfile& profile) {
  std::string text;
  if (!google::protobuf::TextFormat::PrintToString(ToProto(profile), &text)) {
    return absl::InternalError("the profile cannot be printed");
  }
  // A reader sees the old file or the new one.
  const std::string part = path + ".part";
  std::ofstream file(part, std::ios::binary | std::ios::trunc);
  file << comment << text;
  file.close();
  std::error_code error;
  if (file) std::filesystem::rename(part, path, error);
  if (file && !error) return absl::OkStatus();
  return absl::UnavailableError(StrCat("cannot write ", path));
}

}  // namespace sparseserve
