#include "server/rpc/attention_conversion.h"

#include <iterator>
#include <set>
#include <string>
#include <variant>

#include "gmock/gmock.h"
#include "google/protobuf/descriptor.h"
#include "google/protobuf/text_format.h"
#include "gtest/gtest.h"
#include "tests/server/rpc/sample_model.h"
#include "tests/server/rpc/status_parts.h"

namespace sparseserve {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using testing::PartsOf;
using testing::SampleModel;
using testing::StatusParts;

template <typename Message>
Message Parse(const std::string& text) {
  Message message;
  EXPECT_TRUE(google::protobuf::TextFormat::ParseFromString(text, &message))
      << text;
  return message;
}

PatternSpec Converted(const std::string& text) {
  FieldErrors errors;
  const auto pattern =
      ConvertPattern("p", Parse<v1::AttentionPattern>(text), errors);
  EXPECT_TRUE(errors.empty()) << text << ": " << errors.ToStatus();
  return pattern.value_or(DensePattern());
}

TEST(ConvertPatternTest, AbsentParametersTakeTheirDefaults) {
  EXPECT_EQ(Converted("dense { }"), PatternSpec(DensePattern()));
  EXPECT_EQ(Converted("xattention { }"), PatternSpec(XAttentionPattern()));
  // As attention_pattern.proto documents them.
  EXPECT_EQ(Converted("xattention { }"),
            PatternSpec(XAttentionPattern{8, 0.95f, 2, true}));
  EXPECT_EQ(Converted("sink_window { }"),
            PatternSpec(SinkWindowPattern{4, 2044}));
  EXPECT_EQ(Converted("tri_shape { }"),
            PatternSpec(TriShapePattern{8, 512, 2}));
  EXPECT_EQ(Converted("strided { }"),
            PatternSpec(StridedPattern{128, FactorizedPart::kBoth}));
  EXPECT_EQ(Converted("fixed { }"),
            PatternSpec(FixedPattern{128, 8, 0, FactorizedPart::kBoth}));
  EXPECT_EQ(Converted("dilated_window { }"),
            PatternSpec(DilatedWindowPattern{2, 512}));
  EXPECT_EQ(Converted("chunked_local { }"),
            PatternSpec(ChunkedLocalPattern{8192}));
  EXPECT_EQ(Converted("delta { tri_shape { } }"),
            PatternSpec(DeltaPattern{TriShapePattern{8, 512, 2}, 64}));
  EXPECT_EQ(Converted("skip_softmax { dense { } }"),
            PatternSpec(SkipSoftmaxPattern{DensePattern(), 0.01f}));
}

TEST(ConvertPatternTest, EveryParameterArrives) {
  EXPECT_EQ(Converted("sliding_window { window_tokens: 4096 }"),
            PatternSpec(SlidingWindowPattern{4096}));
  EXPECT_EQ(Converted("xattention { stride: 16 threshold: 0.5 dense_layers: 0"
                      " last_block_dense: false }"),
            PatternSpec(XAttentionPattern{16, 0.5f, 0, false}));
  EXPECT_EQ(Converted("vertical_slash { columns: 5 diagonals: 6 rows: 7 "
                      "dense_layers: 0 last_block_dense: false }"),
            PatternSpec(VerticalSlashPattern{5, 6, 7, 0, false}));
  EXPECT_EQ(Converted("flex_prefill { gamma: 0.5 tau: 0.25 "
                      "min_budget_tokens: 7 dense_layers: 0 "
                      "last_block_dense: false }"),
            PatternSpec(FlexPrefillPattern{0.5f, 0.25f, 7, 0, false}));
  EXPECT_EQ(Converted("similarity_gated { similarity: 0.5 threshold: 0.25 "
                      "dense_layers: 0 last_block_dense: false }"),
            PatternSpec(SimilarityGatedPattern{0.5f, 0.25f, 0, false}));
  EXPECT_EQ(Converted("peak_weight { stride: 4 rows: 0 threshold: 0.25 "
                      "dense_layers: 3 last_block_dense: true }"),
            PatternSpec(PeakWeightPattern{4, 0, 0.25f, 3, true}));
  EXPECT_EQ(Converted("quest { budget_tokens: 5 sink_tokens: 0 "
                      "window_tokens: 6 dense_layers: 0 reuse_steps: 4 }"),
            PatternSpec(QuestPattern{5, 0, 6, 0, 4}));
  EXPECT_EQ(Converted("page_top_p { candidate_tokens: 5 threshold: 0.5 "
                      "sink_tokens: 0 window_tokens: 6 dense_layers: 0 "
                      "reuse_steps: 4 }"),
            PatternSpec(PageTopPPattern{5, 0.5f, 0, 6, 0, 4}));
  EXPECT_EQ(Converted("moba { block_tokens: 64 top_k: 5 dense_layers: 0 "
                      "reuse_steps: 4 }"),
            PatternSpec(MobaPattern{64, 5, 0, 4}));
  EXPECT_EQ(Converted("sink_window { sink_tokens: 0 window_tokens: 9 }"),
            PatternSpec(SinkWindowPattern{0, 9}));
  EXPECT_EQ(Converted("tri_shape { sink_tokens: 0 window_tokens: 9 "
                      "dense_blocks: 0 }"),
            PatternSpec(TriShapePattern{0, 9, 0}));
  EXPECT_EQ(Converted("strided { stride: 9 part: FACTORIZED_PART_LOCAL }"),
            PatternSpec(StridedPattern{9, FactorizedPart::kLocal}));
  EXPECT_EQ(Converted("fixed { period_tokens: 9 columns: 2 column_group: 3 "
                      "part: FACTORIZED_PART_SUMMARY }"),
            PatternSpec(FixedPattern{9, 2, 3, FactorizedPart::kSummary}));
  EXPECT_EQ(Converted("dilated_window { dilation: 3 window_keys: 9 }"),
            PatternSpec(DilatedWindowPattern{3, 9}));
  EXPECT_EQ(Converted("chunked_local { chunk_tokens: 9 }"),
            PatternSpec(ChunkedLocalPattern{9}));
}

// The names of a oneof's arms.
std::set<std::string> ArmsOf(const google::protobuf::OneofDescriptor& oneof) {
  std::set<std::string> names;
  for (int i = 0; i < oneof.field_count(); ++i) {
    names.insert(oneof.field(i)->name());
  }
  return names;
}

std::set<std::string> NamesOf(const std::vector<PatternSpec>& patterns) {
  std::set<std::string> names;
  for (const PatternSpec& pattern : patterns) {
    names.insert(std::string(PatternName(pattern)));
  }
  return names;
}

TEST(ConvertPatternTest, EveryBaseOfACorrectionArrivesWithItsParameters) {
  const struct {
    const char* text;
    DeltaBase base;
  } kBases[] = {
      {"tri_shape { window_tokens: 9 }", TriShapePattern{8, 9, 2}},
      {"sink_window { window_tokens: 9 }", SinkWindowPattern{4, 9}},
      {"xattention { stride: 4 }", XAttentionPattern{.stride = 4}},
      {"vertical_slash { columns: 9 }", VerticalSlashPattern{.columns = 9}},
      {"flex_prefill { tau: 0.5 }", FlexPrefillPattern{.tau = 0.5f}},
      {"similarity_gated { similarity: 0.5 }",
       SimilarityGatedPattern{.similarity = 0.5f}}};
  EXPECT_EQ(std::size(kBases), std::variant_size_v<DeltaBase>);
  EXPECT_EQ(ArmsOf(*v1::DeltaPattern::descriptor()->FindOneofByName("base")),
            NamesOf(EveryKindOf<DeltaBase>()));
  for (const auto& base : kBases) {
    EXPECT_EQ(Converted(std::string("delta { gamma: 32 ") + base.text + " }"),
              PatternSpec(DeltaPattern{base.base, 32}));
  }
}

TEST(ConvertPatternTest, EveryBaseOfSkippingArrivesWithItsParameters) {
  const struct {
    const char* text;
    SkipSoftmaxBase base;
  } kBases[] = {
      {"dense { }", DensePattern()},
      {"sink_window { window_tokens: 9 }", SinkWindowPattern{4, 9}},
      {"tri_shape { window_tokens: 9 }", TriShapePattern{8, 9, 2}},
      {"xattention { stride: 4 }", XAttentionPattern{.stride = 4}},
      {"vertical_slash { columns: 9 }", VerticalSlashPattern{.columns = 9}},
      {"flex_prefill { tau: 0.5 }", FlexPrefillPattern{.tau = 0.5f}},
      {"similarity_gated { similarity: 0.5 }",
       SimilarityGatedPattern{.similarity = 0.5f}},
      {"peak_weight { rows: 9 }", PeakWeightPattern{.rows = 9}},
      {"quest { budget_tokens: 9 }", QuestPattern{.budget_tokens = 9}},
      {"page_top_p { threshold: 0.5 }", PageTopPPattern{.threshold = 0.5f}},
      {"moba { top_k: 9 }", MobaPattern{.top_k = 9}}};
  EXPECT_EQ(std::size(kBases), std::variant_size_v<SkipSoftmaxBase>);
  EXPECT_EQ(
      ArmsOf(*v1::SkipSoftmaxPattern::descriptor()->FindOneofByName("base")),
      NamesOf(EveryKindOf<SkipSoftmaxBase>()));
  for (const auto& base : kBases) {
    EXPECT_EQ(Converted(std::string("skip_softmax { threshold: 0.5 ") +
                        base.text + " }"),
              PatternSpec(SkipSoftmaxPattern{base.base, 0.5f}));
  }
}

TEST(ConvertPatternTest, BoundsAreInclusive) {
  for (const char* text :
       {"sliding_window { window_tokens: 1 }",
        "sliding_window { window_tokens: 2147483647 }",
        "xattention { stride: 2 }", "xattention { stride: 64 }",
        "xattention { threshold: 1e-30 }", "xattention { threshold: 1 }",
        "xattention { dense_layers: 2147483647 }"}) {
    Converted(text);
  }
}

struct BadPattern {
  const char* text;
  const char* field;
  const char* description;
};

constexpr BadPattern kBadPatterns[] = {
    {"", "p",
     "must be one of dense, sliding_window, sink_window, tri_shape, strided, "
     "fixed, dilated_window, chunked_local, xattention, vertical_slash, "
     "flex_prefill, similarity_gated, peak_weight, quest, page_top_p, moba, "
     "pruned, delta, skip_softmax"},
    {"sink_window { window_tokens: 0 }", "p.sink_window.window_tokens",
     "is 0, must be 1 or more"},
    {"tri_shape { dense_blocks: -1 }", "p.tri_shape.dense_blocks",
     "is -1, must be 0 or more"},
    {"fixed { column_group: 16 }", "p.fixed.column_group",
     "is 16, must be 0 to period_tokens / columns - 1, 15"},
    {"strided { part: 7 }", "p.strided.part",
     "is 7, must be a value of FactorizedPart"},
    {"fixed { part: -1 }", "p.fixed.part",
     "is -1, must be a value of FactorizedPart"},
    {"sliding_window { }", "p.sliding_window.window_tokens",
     "is 0, must be 1 or more"},
    {"sliding_window { window_tokens: -7 }", "p.sliding_window.window_tokens",
     "is -7, must be 1 or more"},
    {"xattention { stride: 1 }", "p.xattention.stride",
     "is 1, must be 2, 4, 8, 16, 32, 64"},
    {"xattention { stride: 12 }", "p.xattention.stride",
     "is 12, must be 2, 4, 8, 16, 32, 64"},
    {"xattention { stride: 128 }", "p.xattention.stride",
     "is 128, must be 2, 4, 8, 16, 32, 64"},
    {"xattention { stride: -8 }", "p.xattention.stride",
     "is -8, must be 2, 4, 8, 16, 32, 64"},
    {"xattention { threshold: 0 }", "p.xattention.threshold",
     "is 0, must be above 0 to 1"},
    {"xattention { threshold: 1.25 }", "p.xattention.threshold",
     "is 1.25, must be above 0 to 1"},
    {"xattention { threshold: nan }", "p.xattention.threshold",
     "is nan, must be above 0 to 1"},
    {"xattention { threshold: -inf }", "p.xattention.threshold",
     "is -inf, must be above 0 to 1"},
    {"xattention { dense_layers: -1 }", "p.xattention.dense_layers",
     "is -1, must be 0 or more"},
    {"vertical_slash { columns: 0 }", "p.vertical_slash.columns",
     "is 0, must be 1 or more"},
    {"vertical_slash { rows: 65 }", "p.vertical_slash.rows",
     "is 65, must be 1 to 64"},
    {"flex_prefill { tau: nan }", "p.flex_prefill.tau",
     "is nan, must be 0 or more"},
    {"flex_prefill { gamma: 1.5 }", "p.flex_prefill.gamma",
     "is 1.5, must be above 0 to 1"},
    {"similarity_gated { similarity: 2 }", "p.similarity_gated.similarity",
     "is 2, must be -1 to 1"},
    {"peak_weight { rows: 65 }", "p.peak_weight.rows",
     "is 65, must be 0 to 64"},
    {"quest { budget_tokens: 0 }", "p.quest.budget_tokens",
     "is 0, must be 1 or more"},
    {"page_top_p { threshold: 0 }", "p.page_top_p.threshold",
     "is 0, must be above 0 to 1"},
    {"moba { block_tokens: 100 }", "p.moba.block_tokens",
     "is 100, must be a multiple of 64"},
    {"quest { reuse_steps: 3 }", "p.quest.reuse_steps",
     "is 3, must be 1, 2, 4, 8, 16, 32, 64"},
    {"moba { top_k: 0 }", "p.moba.top_k", "is 0, must be 1 or more"},
    {"delta { }", "p.delta.base",
     "must be one of tri_shape, sink_window, xattention, vertical_slash, "
     "flex_prefill, similarity_gated"},
    {"delta { gamma: 12 tri_shape { } }", "p.delta.gamma",
     "is 12, must be 8, 16, 32, 64"},
    {"delta { xattention { stride: 3 } }", "p.delta.xattention.stride",
     "is 3, must be 2, 4, 8, 16, 32, 64"},
    {"skip_softmax { threshold: 0.1 }", "p.skip_softmax.base",
     "must be one of dense, sink_window, tri_shape, xattention, "
     "vertical_slash, flex_prefill, similarity_gated, peak_weight, quest, "
     "page_top_p, moba"},
    {"skip_softmax { threshold: 1.5 dense { } }", "p.skip_softmax.threshold",
     "is 1.5, must be 0 to 1"},
    {"skip_softmax { moba { top_k: 0 } }", "p.skip_softmax.moba.top_k",
     "is 0, must be 1 or more"},
};

class BadPatternTest : public ::testing::TestWithParam<BadPattern> {};

TEST_P(BadPatternTest, IsRefusedNamingParameterValueAndRange) {
  const BadPattern& bad = GetParam();
  FieldErrors errors;
  EXPECT_FALSE(
      ConvertPattern("p", Parse<v1::AttentionPattern>(bad.text), errors));
  const StatusParts parts = PartsOf(errors.ToStatus());
  EXPECT_EQ(parts.code, grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_THAT(parts.fields, ElementsAre(bad.field));
  EXPECT_THAT(parts.descriptions, ElementsAre(bad.description));
}

INSTANTIATE_TEST_SUITE_P(Table, BadPatternTest,
                         ::testing::ValuesIn(kBadPatterns));

// The API, GetModel and the metrics call patterns by the same names.
TEST(ConvertPatternTest, EveryKindOfPatternHasAnArmOfItsName) {
  EXPECT_EQ(
      ArmsOf(*v1::AttentionPattern::descriptor()->FindOneofByName("pattern")),
      NamesOf(EveryPattern()));
}

// ... and every arm is converted to the kind of its name.
TEST(ConvertPatternTest, EveryArmBecomesTheKindOfItsName) {
  const google::protobuf::OneofDescriptor& arms =
      *v1::AttentionPattern::descriptor()->FindOneofByName("pattern");
  for (int i = 0; i < arms.field_count(); ++i) {
    v1::AttentionPattern proto;
    proto.GetReflection()->MutableMessage(&proto, arms.field(i));
    FieldErrors errors;
    const auto pattern = ConvertPattern("p", proto, errors);
    const std::string& name = arms.field(i)->name();
    if (pattern.has_value()) {
      EXPECT_EQ(PatternName(*pattern), name);
    } else {  // a parameter that has no default
      EXPECT_THAT(errors.violations()[0].field, HasSubstr("p." + name + "."));
    }
  }
}

absl::StatusOr<PatternDecision> Decision(const std::string& text,
                                         const ServedModel& model) {
  const auto choice = Parse<v1::AttentionChoice>(text);
  FieldErrors errors;
  const std::optional<PatternSpec> pattern = CheckChoice(choice, errors);
  EXPECT_TRUE(errors.empty()) << text;
  return DecideAttention(choice, pattern, model);
}

TEST(DecideAttentionTest, WithoutAChoiceItIsDense) {
  const SampleModel sample;
  const auto decision = Decision("", sample.model());
  ASSERT_TRUE(decision.ok()) << decision.status();
  EXPECT_EQ(decision->plan, "dense");
  EXPECT_EQ(decision->choice.pattern, PatternSpec(DensePattern()));
}

TEST(DecideAttentionTest, DenseIsThePlanDenseHoweverItIsAskedFor) {
  const SampleModel sample;
  for (const char* text : {"plan: 'dense'", "pattern { dense { } }"}) {
    const auto decision = Decision(text, sample.model());
    ASSERT_TRUE(decision.ok()) << decision.status();
    EXPECT_EQ(decision->plan, "dense");
    EXPECT_EQ(decision->choice.pattern, PatternSpec(DensePattern()));
  }
}

TEST(DecideAttentionTest, APatternHasNoPlan) {
  const SampleModel sample;
  const auto decision =
      Decision("pattern { xattention { stride: 4 } }", sample.model());
  ASSERT_TRUE(decision.ok()) << decision.status();
  EXPECT_EQ(decision->plan, "");
  EXPECT_EQ(decision->choice.pattern,
            PatternSpec(XAttentionPattern{.stride = 4}));
}

TEST(DecideAttentionTest, APlanIsFoundByItsName) {
  const SampleModel sample;
  ServedModel model = sample.model();
  model.plans.push_back({"fast", {XAttentionPattern{.stride = 16}}});
  const auto decision = Decision("plan: 'fast'", model);
  ASSERT_TRUE(decision.ok()) << decision.status();
  EXPECT_EQ(decision->plan, "fast");
  EXPECT_EQ(decision->choice.pattern,
            PatternSpec(XAttentionPattern{.stride = 16}));
}

TEST(DecideAttentionTest, AnUnknownPlanIsNotFound) {
  const SampleModel sample;
  // A pattern's name is not a plan's.
  const auto decision = Decision("plan: 'xattention'", sample.model());
  const StatusParts parts = PartsOf(decision.status());
  EXPECT_EQ(parts.code, grpc::StatusCode::NOT_FOUND);
  EXPECT_EQ(parts.reason, "PLAN_NOT_FOUND");
  EXPECT_EQ(parts.metadata.at("plan"), "xattention");
  EXPECT_EQ(parts.metadata.at("model"), "models/sample");
  EXPECT_EQ(parts.resource->resource_name(), "xattention");
}

TEST(DecideAttentionTest, AnIllegalPatternIsAFailedPreconditionThatSaysWhy) {
  const SampleModel sample;
  const auto decision = Decision(
      "pattern { sliding_window { window_tokens: 64 } }", sample.model());
  const StatusParts parts = PartsOf(decision.status());
  EXPECT_EQ(parts.code, grpc::StatusCode::FAILED_PRECONDITION);
  EXPECT_EQ(parts.reason, "PATTERN_UNSUPPORTED");
  EXPECT_EQ(parts.metadata.at("pattern"), "sliding_window");
  EXPECT_EQ(parts.metadata.at("model"), "models/sample");
  EXPECT_THAT(parts.metadata.at("cause"), HasSubstr("not trained with"));
  EXPECT_THAT(parts.message, HasSubstr(parts.metadata.at("cause")));
}

// What GetModel lists is accepted, and nothing else.
TEST(DecideAttentionTest, ListedPatternsAreTheLegalOnes) {
  const SampleModel sample;
  ServedModel windowed = sample.model();
  windowed.info.layer_windows = {64, 64, 64, 64};
  for (const ServedModel& model : {sample.model(), windowed}) {
    std::set<size_t> listed;
    for (const PatternSpec& pattern : SupportedPatterns(model.info)) {
      listed.insert(pattern.index());
    }
    for (PatternSpec pattern : EveryPattern()) {
      if (auto* window = std::get_if<SlidingWindowPattern>(&pattern)) {
        window->window_tokens = 64;
      }
      const auto decision = DecideAttention({}, pattern, model);
      EXPECT_EQ(decision.ok(), listed.count(pattern.index()) == 1)
          << PatternName(pattern);
      if (decision.ok()) continue;
      const StatusParts parts = PartsOf(decision.status());
      EXPECT_EQ(parts.code, grpc::StatusCode::FAILED_PRECONDITION);
      EXPECT_THAT(parts.metadata.at("cause"), Not(IsEmpty()));
    }
  }
}

TEST(CheckChoiceTest, AnEmptyPlansNameIsInvalid) {
  FieldErrors errors;
  CheckChoice(Parse<v1::AttentionChoice>("plan: ''"), errors);
  EXPECT_THAT(PartsOf(errors.ToStatus()).fields,
              ElementsAre("options.attention.plan"));
}

TEST(ToSupportedPatternTest, SaysWhatTheTraitsSay) {
  const v1::SupportedPattern dense = ToSupportedPattern(DensePattern());
  EXPECT_EQ(dense.name(), "dense");
  EXPECT_THAT(dense.phases(), ElementsAre(v1::SupportedPattern::PREFILL,
                                          v1::SupportedPattern::DECODE));
  EXPECT_TRUE(dense.selection_causal());
  EXPECT_FALSE(dense.trained_in());
  EXPECT_TRUE(dense.time_predictable());
  EXPECT_FALSE(dense.superset());

  EXPECT_TRUE(ToSupportedPattern(SlidingWindowPattern{64}).trained_in());

  const v1::SupportedPattern chosen = ToSupportedPattern(XAttentionPattern());
  EXPECT_EQ(chosen.name(), "xattention");
  EXPECT_THAT(chosen.phases(), ElementsAre(v1::SupportedPattern::PREFILL));
  EXPECT_FALSE(chosen.time_predictable());
  EXPECT_FALSE(chosen.superset());

  const v1::SupportedPattern lines = ToSupportedPattern(VerticalSlashPattern());
  EXPECT_FALSE(lines.selection_causal());
  EXPECT_TRUE(lines.superset());
}

}  // namespace
}  // namespace sparseserve
