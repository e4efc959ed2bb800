#include "engine/pattern/etc_passes.h"

#include <cmath>
#include <map>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/testing/etc_rule.h"
#include "tests/testing/oracle_report.h"
#include "tests/testing/pass_keys.h"

namespace sparseserve {
namespace {

using testing::Difference;
using ::testing::ElementsAre;
using testing::EtcRule;
using ::testing::HasSubstr;
using testing::KeysOf;
using testing::LabelledKey;
using testing::SlotKeys;
using testing::VisibleKeys;

constexpr int kLabels = 14;

// Distinct for all labels, heads and rows, so that a label taken for another
// shows.
float ScoreOf(int64_t row, int64_t head, int64_t label) {
  return static_cast<float>(row * 100 + head * 20 + label) / 64;
}

EtcLabelScores Scores(int64_t rows, int64_t heads) {
  EtcLabelScores scores = {.labels = kLabels};
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t head = 0; head < heads; ++head) {
      for (int label = 0; label < kLabels; ++label) {
        scores.scores.push_back(ScoreOf(row, head, label));
      }
    }
  }
  return scores;
}

struct Given {
  EtcPattern pattern;
  EtcTokens tokens;
  EtcRule rule;
};

// Segments of various lengths, a few of padding, structure at random.
Given Draw(int long_tokens, int global_tokens, int radius, uint32_t seed) {
  std::mt19937 random(seed);
  Given given = {
      {.radius = radius, .max_distance = 3},
      {.heads = 2, .global_tokens = global_tokens},
      {.radius = radius, .max_distance = 3, .global_tokens = global_tokens}};
  int32_t segment = 0;
  for (int token = 0; token < long_tokens; ++token) {
    if (random() % 20 == 0) ++segment;
    // A segment may go on behind another.
    const int32_t own = random() % 10 == 0 ? 0 : segment;
    const bool is_padding = seed % 3 == 1   ? token >= long_tokens * 3 / 4
                            : seed % 3 == 2 ? token < long_tokens / 4
                                            : false;
    given.tokens.segments.push_back(is_padding ? -2 : own);
  }
  given.rule.segments.assign(given.tokens.segments.begin(),
                             given.tokens.segments.end());
  const auto draw = [&] { return static_cast<int32_t>(random() % 15) - 1; };
  for (int token = 0; token < long_tokens; ++token) {
    given.rule.long_to_global.emplace_back();
    for (int key = 0; key < global_tokens; ++key) {
      given.tokens.long_to_global.push_back(draw());
      given.rule.long_to_global.back().push_back(
          given.tokens.long_to_global.back());
    }
  }
  for (int row = 0; row < global_tokens; ++row) {
    given.rule.global_to_long.emplace_back();
    for (int token = 0; token < long_tokens; ++token) {
      given.tokens.global_to_long.push_back(draw());
      // Nobody sees padding, whatever its label.
      given.rule.global_to_long.back().push_back(
          given.tokens.segments[token] < 0
              ? -1
              : given.tokens.global_to_long.back());
    }
  }
  given.tokens.long_labels = Scores(long_tokens, 2);
  given.tokens.global_labels = Scores(global_tokens, 2);
  return given;
}

VisibleKeys Biased(const std::vector<LabelledKey>& seen, int64_t first_key,
                   int64_t row, int32_t head) {
  VisibleKeys keys;
  for (const LabelledKey& key : seen) {
    keys.push_back(
        {.key = first_key + key.key, .bias = ScoreOf(row, head, key.label)});
  }
  return keys;
}

constexpr EtcPiece kPieces[] = {EtcPiece::kLongToLong, EtcPiece::kLongToGlobal,
                                EtcPiece::kGlobalToGlobal,
                                EtcPiece::kGlobalToLong};

bool HasLongRows(EtcPiece piece) {
  return piece == EtcPiece::kLongToLong || piece == EtcPiece::kLongToGlobal;
}

// Of a row that is no padding.
VisibleKeys WantedOf(const EtcRule& rule, EtcPiece piece, int64_t row,
                     int32_t head) {
  const int64_t first_long = rule.global_tokens;
  switch (piece) {
    case EtcPiece::kLongToLong:
      return Biased(rule.LongToLong(row), first_long, row, head);
    case EtcPiece::kLongToGlobal:
      return Biased(rule.LongToGlobal(row), 0, row, head);
    case EtcPiece::kGlobalToGlobal:
      return Biased(rule.GlobalToGlobal(row), 0, row, head);
    case EtcPiece::kGlobalToLong:
      return Biased(rule.GlobalToLong(row), first_long, row, head);
  }
  return {};
}

// What the slots of a head see, by their piece and their row in its sequence.
using Seen = std::map<std::pair<EtcPiece, int64_t>, VisibleKeys>;

Seen SeenBy(const AttentionPasses& passes, int64_t global, int32_t head) {
  Seen seen;
  for (const AttentionPass& pass : passes.passes) {
    const auto piece = static_cast<EtcPiece>(pass.projection);
    const AttentionPasses one = {
        .tokens = passes.tokens, .heads = passes.heads, .passes = {pass}};
    for (const SlotKeys& slot : KeysOf(one, head)) {
      const int64_t row = slot.token - (HasLongRows(piece) ? global : 0);
      EXPECT_TRUE(seen.emplace(std::pair(piece, row), slot.keys).second)
          << "piece " << pass.projection << " has row " << row << " twice";
    }
  }
  return seen;
}

// Every row of every piece: one that has no slot sees nothing.
void ExpectRule(const Given& given, const AttentionPasses& passes, int32_t head,
                testing::OracleReport& report) {
  Seen seen = SeenBy(passes, given.tokens.global_tokens, head);
  for (const EtcPiece piece : kPieces) {
    const int64_t rows = HasLongRows(piece)
                             ? static_cast<int64_t>(given.rule.segments.size())
                             : given.rule.global_tokens;
    for (int64_t row = 0; row < rows; ++row) {
      if (HasLongRows(piece) && given.rule.segments[row] < 0) continue;
      EXPECT_EQ(Difference(seen[{piece, row}],
                           WantedOf(given.rule, piece, row, head)),
                "")
          << "piece " << static_cast<int>(piece) << " head " << head << " row "
          << row;
      report.AddRow();
      seen.erase({piece, row});
    }
  }
  // Padding, or no row at all.
  EXPECT_EQ(seen.size(), 0);
}

TEST(EtcPassesTest, ShowWhatTheRuleShowsWithItsLabels) {
  testing::OracleReport report("etc", "sets");
  uint32_t seed = 0;
  for (const int long_tokens : {1, 30, 64, 65, 150}) {
    for (const int global : {0, 1, 5, 64, 67}) {
      for (const int radius : {0, 2, 40}) {
        const Given given = Draw(long_tokens, global, radius, ++seed);
        SCOPED_TRACE(::testing::Message() << long_tokens << " long, " << global
                                          << " global, radius " << radius);
        const AttentionPasses passes =
            EtcPasses(given.pattern, given.tokens).value();
        ASSERT_EQ(passes.Validate(), absl::OkStatus());
        EXPECT_EQ(passes.tokens, long_tokens + global);
        report.AddCase();
        for (int32_t head = 0; head < 2; ++head) {
          ExpectRule(given, passes, head, report);
        }
      }
    }
  }
}

// By hand, since the rule computes them alike.
TEST(EtcPassesTest, LabelsAreThoseOfDistances) {
  const EtcTokens tokens = {
      .heads = 1,
      .segments = std::vector<int32_t>(7),
      .long_labels = {.labels = 5, .scores = [] {
                        std::vector<float> scores;
                        for (int i = 0; i < 7 * 5; ++i) {
                          scores.push_back(static_cast<float>(i % 5));
                        }
                        return scores;
                      }()}};
  const AttentionPasses passes =
      EtcPasses({.radius = 3, .max_distance = 2}, tokens).value();
  const std::vector<SlotKeys> slots = KeysOf(passes, 0);
  ASSERT_EQ(slots.size(), 7);
  std::vector<double> labels;
  for (const auto& key : slots[3].keys) labels.push_back(key.bias);
  EXPECT_THAT(labels, ElementsAre(4, 4, 3, 0, 1, 2, 2));
}

// What ETC was published with at most: 8,192 long and 512 global tokens.
TEST(EtcPassesTest, TakeTheSizesOfEncoders) {
  constexpr int kLong = 8192, kGlobal = 512, kHeads = 16;
  const auto scores = [](int rows) {
    return EtcLabelScores{25, std::vector<float>(rows * kHeads * 25)};
  };
  const std::vector<int32_t> unseen(kLong * kGlobal, -1);
  EXPECT_EQ(EtcPasses({}, {.heads = kHeads,
                           .global_tokens = kGlobal,
                           .segments = std::vector<int32_t>(kLong, -1),
                           .long_to_global = unseen,
                           .global_to_long = unseen,
                           .long_labels = scores(kLong),
                           .global_labels = scores(kGlobal)})
                .status(),
            absl::OkStatus());
}

TEST(EtcPassesTest, HaveSlotsForEveryRealTokenInItsTwoPieces) {
  const Given given = Draw(100, 9, 4, 1);
  const AttentionPasses passes = EtcPasses(given.pattern, given.tokens).value();
  ASSERT_EQ(passes.passes.size(), 4);
  std::vector<int> slots(109);
  for (const SlotKeys& slot : KeysOf(passes, 1)) ++slots[slot.token];
  for (int token = 0; token < 109; ++token) {
    const bool is_padding = token >= 9 && given.tokens.segments[token - 9] < 0;
    EXPECT_EQ(slots[token], is_padding ? 0 : 2);
  }
}

TEST(EtcPassesTest, ScoreLabelsByTheirKeysAndBiases) {
  // Two heads of two columns, three labels.
  const std::vector<float> queries = {1, 2, 3, 4, 0, 1, 0, -1};
  const std::vector<float> keys = {1, 0, 0, 1, 1, 1, 2, 0, 0, 0, 0, 0};
  const std::vector<float> biases = {0, 1, 2, 3, 4, 5};
  const EtcLabelScores scores =
      ScoreEtcLabels({queries.data(), 2, 4}, {{keys.data(), 3, 4}, biases}, 2,
                     0.5f)
          .value();
  EXPECT_EQ(scores.labels, 3);
  EXPECT_THAT(scores.scores, ElementsAre(0.5f, 2.5f, 2, 2.5f, 4.5f, 2.5f, 0,
                                         1.5f, 2, 0, 1.5f, 2.5f));
}

TEST(EtcPassesTest, RefuseWhatDoesNotFit) {
  const auto error = [](const Given& given) {
    return std::string(
        EtcPasses(given.pattern, given.tokens).status().message());
  };
  const Given given = Draw(10, 3, 2, 3);
  EXPECT_EQ(error(given), "");
  Given wrong = given;
  wrong.pattern.radius = -1;
  EXPECT_EQ(error(wrong), "etc: radius is -1; allowed: 0 to 1048576");
  wrong = given;
  wrong.tokens.global_tokens = -1;
  EXPECT_EQ(error(wrong), "etc: -1 global tokens; allowed: 0 to 1048576");
  wrong = given;
  wrong.tokens.heads = 0;
  EXPECT_THAT(error(wrong), HasSubstr("0 heads"));
  wrong = given;
  wrong.pattern.max_distance = 7;
  EXPECT_EQ(error(wrong), "etc: 14 labels of long rows; allowed: 15 to 4096");
  wrong = given;
  wrong.tokens.global_labels.scores.pop_back();
  EXPECT_EQ(error(wrong), "etc: 83 scores of labels for global rows, not 84");
  wrong = given;
  wrong.tokens.long_to_global.pop_back();
  EXPECT_EQ(error(wrong), "etc: 29 labels in long_to_global, not 30");
  wrong = given;
  wrong.tokens.global_to_long[4] = 14;
  EXPECT_EQ(error(wrong), "etc: label 14 in global_to_long; allowed: -1 to 13");
  wrong.tokens.global_to_long[4] = -2;
  EXPECT_EQ(error(wrong), "etc: label -2 in global_to_long; allowed: -1 to 13");
  wrong = given;
  wrong.tokens.global_labels.scores[(2 * 2 + 1) * kLabels + 5] = NAN;
  EXPECT_EQ(error(wrong),
            "etc: the score of label 5 in global row 2, head 1 is nan, not "
            "finite");
  wrong.tokens.long_labels.scores[0] = -INFINITY;
  EXPECT_EQ(error(wrong),
            "etc: the score of label 0 in long row 0, head 0 is -inf, not "
            "finite");
}

// Given so, or too large for a float.
TEST(EtcPassesTest, RefuseScoresThatAreNotFinite) {
  const auto error = [](float query, float key, float bias) {
    const std::vector<float> queries = {1, 1, 1, query};
    const std::vector<float> keys = {1, key};
    const std::vector<float> biases = {0, bias};
    return std::string(ScoreEtcLabels({queries.data(), 2, 2},
                                      {{keys.data(), 1, 2}, biases}, 2, 1)
                           .status()
                           .message());
  };
  EXPECT_EQ(error(1, 1, 1), "");
  EXPECT_EQ(error(NAN, 1, 1),
            "etc: the score of label 0 in row 1, head 1 is nan, not finite");
  EXPECT_EQ(error(1e30f, 1e30f, 0),
            "etc: the score of label 0 in row 1, head 1 is inf, not finite");
  EXPECT_EQ(error(1, 1, -INFINITY),
            "etc: the score of label 0 in row 0, head 1 is -inf, not finite");
}

TEST(EtcPassesTest, RefuseProductsThatAreTooLarge) {
  // A dense long sequence of 257 blocks.
  constexpr int32_t kLong = 257 * 64;
  const EtcTokens tokens = {
      .heads = 1,
      .segments = std::vector<int32_t>(kLong),
      .long_labels = {25, std::vector<float>(25 * kLong)}};
  EXPECT_EQ(EtcPasses({.radius = 1 << 20}, tokens).status().message(),
            "etc: 66049 blocks of biases, over all heads; allowed: 65536");
  const std::vector<float> values(1 << 13);
  EXPECT_EQ(ScoreEtcLabels({values.data(), 1 << 20, 1},
                           {{values.data(), 1 << 12, 1},
                            absl::MakeConstSpan(values).first(1 << 12)},
                           1, 1)
                .status()
                .message(),
            "etc: 1048576 rows of 1 heads and 4096 labels; allowed: 268435456 "
            "of their product");
  const auto error = [&](int64_t labels, int64_t columns, size_t biases,
                         int32_t heads) {
    return std::string(
        ScoreEtcLabels({values.data(), 2, 4},
                       {{values.data(), labels, columns},
                        absl::MakeConstSpan(values).first(biases)},
                       heads, 1)
            .status()
            .message());
  };
  EXPECT_EQ(error(3, 4, 6, 2), "");
  EXPECT_EQ(error(0, 4, 0, 2), "etc: 0 labels; allowed: 1 to 4096");
  EXPECT_EQ(error(3, 4, 6, 0), "etc: 0 heads; allowed: 1 to 1024");
  EXPECT_EQ(error(3, 8, 6, 2),
            "etc: queries of 4 columns, labels of 8; allowed: a multiple of "
            "heads, 2, and alike");
  EXPECT_EQ(error(3, 4, 5, 2), "etc: 5 biases of labels, not 6");
}

}  // namespace
}  // namespace sparseserve
