#include "server/rpc/attention_conversion.h"

#include <algorithm>
#include <variant>

#include "absl/types/span.h"
#include "engine/base/str_cat.h"
#include "engine/pattern/every_pattern.h"
#include "server/rpc/status_details.h"

namespace sparseserve {
namespace {

constexpr int kMaxPlans = 64;
constexpr size_t kMaxPlanNameBytes = 64;
constexpr int kMaxHeadRules = 4096;

bool IsPlanName(std::string_view name) {
  return !name.empty() && name.size() <= kMaxPlanNameBytes &&
         name.find_first_not_of("abcdefghijklmnopqrstuvwxyz0123456789_-.") ==
             name.npos;
}

// What the enum does not name is CheckPart()'s to refuse.
FactorizedPart ToPart(v1::FactorizedPart part) {
  switch (part) {
    case v1::FACTORIZED_PART_LOCAL:
      return FactorizedPart::kLocal;
    case v1::FACTORIZED_PART_SUMMARY:
      return FactorizedPart::kSummary;
    default:
      return FactorizedPart::kBoth;
  }
}

SlidingWindowPattern ToSpec(const v1::SlidingWindowPattern& proto) {
  return {.window_tokens = proto.window_tokens()};
}

// What the patterns that choose by scores keep dense.
template <typename Proto, typename Pattern>
void SetDense(const Proto& proto, Pattern& pattern) {
  if (proto.has_dense_layers()) pattern.dense_layers = proto.dense_layers();
  if (proto.has_last_block_dense()) {
    pattern.is_last_block_dense = proto.last_block_dense();
  }
}

XAttentionPattern ToSpec(const v1::XAttentionPattern& proto) {
  XAttentionPattern pattern;
  if (proto.has_stride()) pattern.stride = proto.stride();
  if (proto.has_threshold()) pattern.threshold = proto.threshold();
  SetDense(proto, pattern);
  return pattern;
}

SinkWindowPattern ToSpec(const v1::SinkWindowPattern& proto) {
  SinkWindowPattern pattern;
  if (proto.has_sink_tokens()) pattern.sink_tokens = proto.sink_tokens();
  if (proto.has_window_tokens()) pattern.window_tokens = proto.window_tokens();
  return pattern;
}

TriShapePattern ToSpec(const v1::TriShapePattern& proto) {
  TriShapePattern pattern;
  if (proto.has_sink_tokens()) pattern.sink_tokens = proto.sink_tokens();
  if (proto.has_window_tokens()) pattern.window_tokens = proto.window_tokens();
  if (proto.has_dense_blocks()) pattern.dense_blocks = proto.dense_blocks();
  return pattern;
}

StridedPattern ToSpec(const v1::StridedPattern& proto) {
  StridedPattern pattern;
  if (proto.has_stride()) pattern.stride = proto.stride();
  pattern.part = ToPart(proto.part());
  return pattern;
}

FixedPattern ToSpec(const v1::FixedPattern& proto) {
  FixedPattern pattern;
  if (proto.has_period_tokens()) pattern.period_tokens = proto.period_tokens();
  if (proto.has_columns()) pattern.columns = proto.columns();
  if (proto.has_column_group()) pattern.column_group = proto.column_group();
  pattern.part = ToPart(proto.part());
  return pattern;
}

DilatedWindowPattern ToSpec(const v1::DilatedWindowPattern& proto) {
  DilatedWindowPattern pattern;
  if (proto.has_dilation()) pattern.dilation = proto.dilation();
  if (proto.has_window_keys()) pattern.window_keys = proto.window_keys();
  return pattern;
}

ChunkedLocalPattern ToSpec(const v1::ChunkedLocalPattern& proto) {
  ChunkedLocalPattern pattern;
  if (proto.has_chunk_tokens()) pattern.chunk_tokens = proto.chunk_tokens();
  return pattern;
}

VerticalSlashPattern ToSpec(const v1::VerticalSlashPattern& proto) {
  VerticalSlashPattern pattern;
  if (proto.has_columns()) pattern.columns = proto.columns();
  if (proto.has_diagonals()) pattern.diagonals = proto.diagonals();
  if (proto.has_rows()) pattern.rows = proto.rows();
  SetDense(proto, pattern);
  return pattern;
}

FlexPrefillPattern ToSpec(const v1::FlexPrefillPattern& proto) {
  FlexPrefillPattern pattern;
  if (proto.has_gamma()) pattern.gamma = proto.gamma();
  if (proto.has_tau()) pattern.tau = proto.tau();
  if (proto.has_min_budget_tokens()) {
    pattern.min_budget_tokens = proto.min_budget_tokens();
  }
  SetDense(proto, pattern);
  return pattern;
}

SimilarityGatedPattern ToSpec(const v1::SimilarityGatedPattern& proto) {
  SimilarityGatedPattern pattern;
  if (proto.has_similarity()) pattern.similarity = proto.similarity();
  if (proto.has_threshold()) pattern.threshold = proto.threshold();
  SetDense(proto, pattern);
  return pattern;
}

PeakWeightPattern ToSpec(const v1::PeakWeightPattern& proto) {
  PeakWeightPattern pattern;
  if (proto.has_stride()) pattern.stride = proto.stride();
  if (proto.has_rows()) pattern.rows = proto.rows();
  if (proto.has_threshold()) pattern.threshold = proto.threshold();
  SetDense(proto, pattern);
  return pattern;
}

// What all patterns that choose for output have.
template <typename Proto, typename Pattern>
void SetReuse(const Proto& proto, Pattern& pattern) {
  if (proto.has_dense_layers()) pattern.dense_layers = proto.dense_layers();
  if (proto.has_reuse_steps()) pattern.reuse_steps = proto.reuse_steps();
}

// What those see in any case that have it.
template <typename Proto, typename Pattern>
void SetEnds(const Proto& proto, Pattern& pattern) {
  if (proto.has_sink_tokens()) pattern.sink_tokens = proto.sink_tokens();
  if (proto.has_window_tokens()) pattern.window_tokens = proto.window_tokens();
  SetReuse(proto, pattern);
}

QuestPattern ToSpec(const v1::QuestPattern& proto) {
  QuestPattern pattern;
  if (proto.has_budget_tokens()) pattern.budget_tokens = proto.budget_tokens();
  SetEnds(proto, pattern);
  return pattern;
}

PageTopPPattern ToSpec(const v1::PageTopPPattern& proto) {
  PageTopPPattern pattern;
  if (proto.has_candidate_tokens()) {
    pattern.candidate_tokens = proto.candidate_tokens();
  }
  if (proto.has_threshold()) pattern.threshold = proto.threshold();
  SetEnds(proto, pattern);
  return pattern;
}

MobaPattern ToSpec(const v1::MobaPattern& proto) {
  MobaPattern pattern;
  if (proto.has_block_tokens()) pattern.block_tokens = proto.block_tokens();
  if (proto.has_top_k()) pattern.top_k = proto.top_k();
  SetReuse(proto, pattern);
  return pattern;
}

// A base that is not there is CheckBase()'s to refuse.
DeltaBase ToBase(const v1::DeltaPattern& proto) {
  switch (proto.base_case()) {
    case v1::DeltaPattern::kTriShape:
      return ToSpec(proto.tri_shape());
    case v1::DeltaPattern::kSinkWindow:
      return ToSpec(proto.sink_window());
    case v1::DeltaPattern::kXattention:
      return ToSpec(proto.xattention());
    case v1::DeltaPattern::kVerticalSlash:
      return ToSpec(proto.vertical_slash());
    case v1::DeltaPattern::kFlexPrefill:
      return ToSpec(proto.flex_prefill());
    case v1::DeltaPattern::kSimilarityGated:
      return ToSpec(proto.similarity_gated());
    case v1::DeltaPattern::BASE_NOT_SET:
      return {};
  }
  return {};
}

DeltaPattern ToSpec(const v1::DeltaPattern& proto) {
  DeltaPattern pattern = {.base = ToBase(proto)};
  if (proto.has_gamma()) pattern.gamma = proto.gamma();
  return pattern;
}

// Likewise.
SkipSoftmaxBase ToBase(const v1::SkipSoftmaxPattern& proto) {
  switch (proto.base_case()) {
    case v1::SkipSoftmaxPattern::kDense:
      return DensePattern();
    case v1::SkipSoftmaxPattern::kSinkWindow:
      return ToSpec(proto.sink_window());
    case v1::SkipSoftmaxPattern::kTriShape:
      return ToSpec(proto.tri_shape());
    case v1::SkipSoftmaxPattern::kXattention:
      return ToSpec(proto.xattention());
    case v1::SkipSoftmaxPattern::kVerticalSlash:
      return ToSpec(proto.vertical_slash());
    case v1::SkipSoftmaxPattern::kFlexPrefill:
      return ToSpec(proto.flex_prefill());
    case v1::SkipSoftmaxPattern::kSimilarityGated:
      return ToSpec(proto.similarity_gated());
    case v1::SkipSoftmaxPattern::kPeakWeight:
      return ToSpec(proto.peak_weight());
    case v1::SkipSoftmaxPattern::kQuest:
      return ToSpec(proto.quest());
    case v1::SkipSoftmaxPattern::kPageTopP:
      return ToSpec(proto.page_top_p());
    case v1::SkipSoftmaxPattern::kMoba:
      return ToSpec(proto.moba());
    case v1::SkipSoftmaxPattern::BASE_NOT_SET:
      return {};
  }
  return {};
}

SkipSoftmaxPattern ToSpec(const v1::SkipSoftmaxPattern& proto) {
  SkipSoftmaxPattern pattern = {.base = ToBase(proto)};
  if (proto.has_threshold()) pattern.threshold = proto.threshold();
  return pattern;
}

// None if no arm is set.
std::optional<PatternSpec> ToSpec(const v1::AttentionPattern& proto) {
  switch (proto.pattern_case()) {
    case v1::AttentionPattern::kDense:
      return DensePattern();
    case v1::AttentionPattern::kSlidingWindow:
      return ToSpec(proto.sliding_window());
    case v1::AttentionPattern::kXattention:
      return ToSpec(proto.xattention());
    case v1::AttentionPattern::kSinkWindow:
      return ToSpec(proto.sink_window());
    case v1::AttentionPattern::kTriShape:
      return ToSpec(proto.tri_shape());
    case v1::AttentionPattern::kStrided:
      return ToSpec(proto.strided());
    case v1::AttentionPattern::kFixed:
      return ToSpec(proto.fixed());
    case v1::AttentionPattern::kDilatedWindow:
      return ToSpec(proto.dilated_window());
    case v1::AttentionPattern::kChunkedLocal:
      return ToSpec(proto.chunked_local());
    case v1::AttentionPattern::kVerticalSlash:
      return ToSpec(proto.vertical_slash());
    case v1::AttentionPattern::kFlexPrefill:
      return ToSpec(proto.flex_prefill());
    case v1::AttentionPattern::kSimilarityGated:
      return ToSpec(proto.similarity_gated());
    case v1::AttentionPattern::kPeakWeight:
      return ToSpec(proto.peak_weight());
    case v1::AttentionPattern::kQuest:
      return ToSpec(proto.quest());
    case v1::AttentionPattern::kPageTopP:
      return ToSpec(proto.page_top_p());
    case v1::AttentionPattern::kMoba:
      return ToSpec(proto.moba());
    case v1::AttentionPattern::kPruned:
      return PrunedPattern();
    case v1::AttentionPattern::kDelta:
      return ToSpec(proto.delta());
    case v1::AttentionPattern::kSkipSoftmax:
      return ToSpec(proto.skip_softmax());
    case v1::AttentionPattern::PATTERN_NOT_SET:
      return std::nullopt;
  }
  return std::nullopt;
}

// Of the patterns that have a part: what is wrong with it.
void CheckPart(std::string_view field, const v1::AttentionPattern& proto,
               FieldErrors& errors) {
  v1::FactorizedPart part = v1::FACTORIZED_PART_UNSPECIFIED;
  if (proto.has_strided()) part = proto.strided().part();
  if (proto.has_fixed()) part = proto.fixed().part();
  if (v1::FactorizedPart_IsValid(part)) return;
  errors.Add(StrCat(field, proto.has_fixed() ? ".fixed" : ".strided", ".part"),
             StrCat(static_cast<int>(part)), "a value of FactorizedPart");
}

// "dense, sliding_window, ...".
std::string NamesOf(absl::Span<const PatternSpec> patterns) {
  std::string names;
  for (const PatternSpec& pattern : patterns) {
    names = StrCat(names, names.empty() ? "" : ", ", PatternName(pattern));
  }
  return names;
}

// Of the patterns that are made of another: whether that is there.
void CheckBase(std::string_view field, const v1::AttentionPattern& proto,
               FieldErrors& errors) {
  if (proto.has_delta() &&
      proto.delta().base_case() == v1::DeltaPattern::BASE_NOT_SET) {
    errors.Add(StrCat(field, ".delta.base"), "",
               StrCat("one of ", NamesOf(EveryKindOf<DeltaBase>())));
  }
  if (proto.has_skip_softmax() && proto.skip_softmax().base_case() ==
                                      v1::SkipSoftmaxPattern::BASE_NOT_SET) {
    errors.Add(StrCat(field, ".skip_softmax.base"), "",
               StrCat("one of ", NamesOf(EveryKindOf<SkipSoftmaxBase>())));
  }
}

// The part of `text` up to `mark`, which leaves both.
std::string_view TakeUntil(std::string_view mark, std::string_view& text) {
  const size_t at = std::min(text.find(mark), text.size());
  const std::string_view part = text.substr(0, at);
  text.remove_prefix(std::min(at + mark.size(), text.size()));
  return part;
}

// Takes the message of CheckPattern() apart.
void AddParameterError(std::string_view field, const absl::Status& status,
                       FieldErrors& errors) {
  std::string_view rest(status.message().data(), status.message().size());
  const std::string_view pattern = TakeUntil(": ", rest);
  const std::string_view parameter = TakeUntil(" is ", rest);
  const std::string_view value = TakeUntil("; allowed: ", rest);
  errors.Add(StrCat(field, ".", pattern, ".", parameter), value, rest);
}

const NamedPlan* FindPlan(std::string_view name, const ServedModel& model) {
  const auto found =
      std::find_if(model.plans.begin(), model.plans.end(),
                   [name](const NamedPlan& plan) { return plan.name == name; });
  return found == model.plans.end() ? nullptr : &*found;
}

}  // namespace

std::optional<PatternSpec> ConvertPattern(std::string_view field,
                                          const v1::AttentionPattern& proto,
                                          FieldErrors& errors) {
  std::optional<PatternSpec> pattern = ToSpec(proto);
  if (!pattern.has_value()) {
    errors.Add(field, "", StrCat("one of ", NamesOf(EveryPattern())));
    return std::nullopt;
  }
  const int found = errors.found();
  CheckPart(field, proto, errors);
  CheckBase(field, proto, errors);
  const absl::Status status = CheckPattern(*pattern);
  if (!status.ok()) AddParameterError(field, status, errors);
  if (errors.found() != found) return std::nullopt;
  return pattern;
}

std::vector<HeadRule> ConvertMap(std::string_view field,
                                 const v1::PatternMap& map,
                                 FieldErrors& errors) {
  std::vector<HeadRule> rules;
  if (map.rules_size() < 1 || map.rules_size() > kMaxHeadRules) {
    errors.Add(StrCat(field, ".rules"), StrCat(map.rules_size(), " rules"),
               StrCat("1 to ", kMaxHeadRules, " rules"));
    return rules;
  }
  for (int i = 0; i < map.rules_size(); ++i) {
    const v1::HeadRule& rule = map.rules(i);
    const std::optional<PatternSpec> pattern = ConvertPattern(
        StrCat(field, ".rules[", i, "].pattern"), rule.pattern(), errors);
    if (!pattern.has_value()) continue;
    rules.push_back({*pattern,
                     {rule.layers().begin(), rule.layers().end()},
                     {rule.kv_heads().begin(), rule.kv_heads().end()}});
  }
  return rules;
}

void CheckPlanName(std::string_view field, const std::string& name,
                   std::set<std::string>& taken, FieldErrors& errors) {
  if (IsPlanName(name) && taken.insert(name).second) return;
  errors.Add(field, StrCat("\"", name, "\""),
             StrCat("1 to ", kMaxPlanNameBytes,
                    " characters of a-z, 0-9, '_', '-' and '.', and no name "
                    "that another plan has"));
}

std::optional<PatternSpec> CheckChoice(const v1::AttentionChoice& choice,
                                       FieldErrors& errors) {
  switch (choice.choice_case()) {
    case v1::AttentionChoice::kPlan:
      if (choice.plan().empty()) {
        errors.Add("options.attention.plan", "\"\"",
                   "the name of one of the model's available plans");
      }
      return std::nullopt;
    case v1::AttentionChoice::kPattern:
      return ConvertPattern("options.attention.pattern", choice.pattern(),
                            errors);
    case v1::AttentionChoice::CHOICE_NOT_SET:
      return std::nullopt;
  }
  return std::nullopt;
}

absl::StatusOr<PatternDecision> DecideAttention(
    const v1::AttentionChoice& choice,
    const std::optional<PatternSpec>& pattern, const ServedModel& model) {
  if (pattern.has_value()) {
    const std::string why = WhyUnsupported(*pattern, model.info);
    if (!why.empty()) {
      return PatternUnsupported(PatternName(*pattern), model.name, why);
    }
    // By either way of asking for it dense is the plan "dense".
    const bool dense = std::holds_alternative<DensePattern>(*pattern);
    return Decide(dense ? kDensePlan : "", *pattern, model.info);
  }
  const std::string name = choice.has_plan() ? choice.plan() : kDensePlan;
  const NamedPlan* const plan = FindPlan(name, model);
  if (plan == nullptr) return PlanNotFound(name, model.name);
  return Decide(plan->name, plan->choice, model.info);
}

std::vector<PlanRule> ConvertPlans(const v1::ServerConfig& config,
                                   FieldErrors& errors) {
  std::vector<PlanRule> plans;
  if (config.attention_plans_size() > kMaxPlans) {
    errors.Add("attention_plans",
               StrCat(config.attention_plans_size(), " plans"),
               StrCat("at most ", kMaxPlans, " plans"));
    return plans;
  }
  std::set<std::string> names = {kDensePlan};
  for (int i = 0; i < config.attention_plans_size(); ++i) {
    const v1::AttentionPlanConfig& plan = config.attention_plans(i);
    const std::string field = StrCat("attention_plans[", i, "]");
    CheckPlanName(StrCat(field, ".name"), plan.name(), names, errors);
    if (plan.choice_case() == v1::AttentionPlanConfig::CHOICE_NOT_SET) {
      errors.Add(field, "", "a pattern or a map");
      continue;
    }
    if (plan.has_map()) {
      plans.push_back(
          {.name = plan.name(),
           .map = ConvertMap(StrCat(field, ".map"), plan.map(), errors)});
      continue;
    }
    const std::optional<PatternSpec> pattern =
        ConvertPattern(StrCat(field, ".pattern"), plan.pattern(), errors);
    if (pattern.has_value()) plans.push_back({plan.name(), *pattern});
  }
  return plans;
}

v1::SupportedPattern ToSupportedPattern(const PatternSpec& pattern) {
  const PatternTraits traits = TraitsOf(pattern);
  v1::SupportedPattern proto;
  proto.set_name(std::string(PatternName(pattern)));
  if (traits.rules_prefill) {
    proto.add_phases(v1::SupportedPattern::PREFILL);
  }
  if (traits.rules_decode) proto.add_phases(v1::SupportedPattern::DECODE);
  proto.set_selection_causal(traits.is_selection_causal);
  proto.set_trained_in(traits.is_trained_in);
  proto.set_time_predictable(traits.is_time_predictable);
  proto.set_superset(traits.is_superset);
  return proto;
}

}  // namespace sparseserve
