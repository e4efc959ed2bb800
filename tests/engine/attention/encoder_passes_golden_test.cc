// Passes of encoders' patterns: what they show against the rules, as sets, and
// what the backend makes of them against the modules of transformers; see
// tests/golden/README.md.

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "engine/pattern/big_bird_draw.h"
#include "engine/pattern/big_bird_passes.h"
#include "engine/pattern/longformer_passes.h"
#include "engine/pattern/reformer_passes.h"
#include "engine/pattern/swin_passes.h"
#include "gtest/gtest.h"
#include "tests/engine/attention/attended_passes.h"
#include "tests/engine/backend/backend_under_test.h"
#include "tests/testing/content_rules.h"
#include "tests/testing/encoder_rules.h"
#include "tests/testing/oracle_report.h"
#include "tests/testing/pass_keys.h"
#include "tests/testing/pattern_golden.h"

namespace sparseserve {
namespace {

using testing::Difference;
using testing::KeysOf;
using testing::PatternGolden;
using testing::Rows;
using testing::SlotKeys;
using testing::VisibleKeys;
using Case = PatternGolden::Case;

// A case's tensors, and what a rule says of them.
struct GoldenCase {
  AttentionPasses passes;
  std::vector<HeadRows> projections;
  double scale = 1;
  // Of rows that are padding nothing is said.
  std::vector<bool> is_defined;
};

// Compares a system's cases on one path, and reports the worst.
class Comparison {
 public:
  Comparison(const std::string& system, Backend& backend)
      : system_(system),
        golden_(system),
        backend_(backend),
        sets_(system, "sets"),
        exact_(system, "f32"),
        rounded_(system, "bf16") {}

  const PatternGolden& golden() const { return golden_; }

  HeadRows Projection(const Case& from, const std::string& prefix = "") const {
    return {golden_.Heads(from, prefix + "q"),
            golden_.Heads(from, prefix + "k"),
            golden_.Heads(from, prefix + "v")};
  }

  // Of what a head's row sees.
  void ExpectSet(const std::string& difference, const std::string& where) {
    EXPECT_EQ(difference, "") << where;
    sets_.AddRow();
  }

  void Compare(const Case& from, const GoldenCase& given) {
    SCOPED_TRACE(system_ + "/" + from.name());
    if (sets_.rows() > 0) sets_.AddCase();
    exact_.AddCase();
    rounded_.AddCase();
    ASSERT_EQ(given.passes.Validate(), absl::OkStatus());
    const std::vector<Rows> wanted = golden_.Heads(from, "output");
    for (const DType dtype : {DType::kF32, DType::kBF16}) {
      const AttendedPasses found =
          Attend(backend_, given.passes, given.projections, given.scale, dtype);
      double error = 0, size = 0;
      for (size_t h = 0; h < wanted.size(); ++h) {
        for (int64_t row = 0; row < wanted[h].count; ++row) {
          if (!given.is_defined[row]) continue;
          AddRow(found.output[h][row], wanted[h][row], dtype, error, size);
        }
      }
      // Rounding shows in a row as it lies: all rows together.
      const double total = std::sqrt(error / size);
      if (dtype == DType::kBF16) {
        EXPECT_LE(total, 2e-2);
        rounded_.AddRow(total);
      }
    }
  }

  ~Comparison() { EXPECT_GT(exact_.rows(), 0); }

 private:
  void AddRow(absl::Span<const double> found, absl::Span<const double> wanted,
              DType dtype, double& error, double& size) {
    for (size_t c = 0; c < wanted.size(); ++c) {
      error += (found[c] - wanted[c]) * (found[c] - wanted[c]);
      size += wanted[c] * wanted[c];
    }
    if (dtype != DType::kF32) return;
    const double row_error = RowError(found, wanted);
    EXPECT_LE(row_error, 1e-5);
    exact_.AddRow(row_error);
  }

  std::string system_;
  PatternGolden golden_;
  Backend& backend_;
  testing::OracleReport sets_;
  testing::OracleReport exact_;
  testing::OracleReport rounded_;
};

double Scale(const std::vector<Rows>& queries) {
  return 1 / std::sqrt(static_cast<double>(queries[0].columns));
}

class EncoderPassesGoldenTest : public BackendTest {
 protected:
  // What passes show is the same on every path, so one of them compares it.
  int32_t HeadsToCompare(int32_t heads) const {
    return GetParam() == AttentionPathsToTest().front() ? heads : 0;
  }
  void CompareLongformer(const std::string& system);
  void CompareSwin(const std::string& system);
  void CompareReformer(const std::string& system);
};

void EncoderPassesGoldenTest::CompareLongformer(const std::string& system) {
  Comparison comparison(system, backend());
  for (const Case& from : comparison.golden().cases()) {
    GoldenCase given;
    given.projections.push_back(comparison.Projection(from));
    given.scale = Scale(given.projections[0].q);
    testing::LongformerRule rule;
    rule.one_sided_window = from.parameters.at("one_sided_window");
    rule.real = from.real();
    rule.global.resize(rule.real.size());
    LongformerTokens tokens;
    tokens.heads = static_cast<int32_t>(given.projections[0].q.size());
    tokens.is_real = rule.real;
    for (const int32_t token : from.parameters.at("global_set")) {
      tokens.global.push_back(token);
      rule.global[token] = true;
    }
    if (!tokens.global.empty()) {
      given.projections.push_back(comparison.Projection(from, "global_"));
    }
    given.passes =
        LongformerPasses(
            {.one_sided_window = static_cast<int32_t>(rule.one_sided_window)},
            tokens)
            .value();
    given.is_defined = rule.real;
    for (int32_t head = 0; head < HeadsToCompare(tokens.heads); ++head) {
      for (const SlotKeys& slot : KeysOf(given.passes, head)) {
        comparison.ExpectSet(
            Difference(slot.keys, rule.Keys(slot.token)),
            absl::StrCat(from.name(), " head ", head, " row ", slot.token));
      }
    }
    comparison.Compare(from, given);
  }
}

TEST_P(EncoderPassesGoldenTest, LongformerAsTransformers) {
  CompareLongformer("longformer");
  CompareLongformer("longformer_blocks");
}

TEST_P(EncoderPassesGoldenTest, LedEncoderAsTransformers) {
  CompareLongformer("led");
}

TEST_P(EncoderPassesGoldenTest, BigBirdAsTransformers) {
  Comparison comparison("big_bird", backend());
  const PatternGolden& golden = comparison.golden();
  for (const Case& from : golden.cases()) {
    GoldenCase given;
    given.projections.push_back(comparison.Projection(from));
    given.scale = Scale(given.projections[0].q);
    given.is_defined = from.real();
    const BigBirdPattern pattern = {
        .block_tokens = from.parameters.at("block"),
        .random_blocks = from.parameters.at("random_blocks")};
    BigBirdTokens tokens;
    tokens.heads = static_cast<int32_t>(given.projections[0].q.size());
    tokens.is_real = from.real();
    const auto drawn = golden.Indices(from, "random_blocks");
    for (const auto& head : drawn) {
      for (const auto& row : head) {
        tokens.drawn.insert(tokens.drawn.end(), row.begin(), row.end());
      }
    }
    if (from.parameters.contains("seed")) {
      EXPECT_EQ(
          DrawBigBirdBlocks(
              pattern, {.seed = from.parameters.at("seed"),
                        .heads = tokens.heads,
                        .tokens = static_cast<int32_t>(tokens.is_real.size()),
                        .most_tokens = from.parameters.at("most_tokens")})
              .value(),
          tokens.drawn)
          << from.name();
    }
    given.passes = BigBirdPasses(pattern, tokens).value();
    testing::BigBirdRule rule;
    rule.block = pattern.block_tokens;
    rule.real = tokens.is_real;
    for (int32_t head = 0; head < HeadsToCompare(tokens.heads); ++head) {
      rule.random_blocks = drawn[head];
      for (const SlotKeys& slot : KeysOf(given.passes, head)) {
        comparison.ExpectSet(
            Difference(slot.keys, rule.Keys(slot.token)),
            absl::StrCat(from.name(), " head ", head, " row ", slot.token));
      }
    }
    comparison.Compare(from, given);
  }
}

void EncoderPassesGoldenTest::CompareSwin(const std::string& system) {
  Comparison comparison(system, backend());
  const PatternGolden& golden = comparison.golden();
  for (const Case& from : golden.cases()) {
    GoldenCase given;
    given.projections.push_back(comparison.Projection(from));
    given.scale = Scale(given.projections[0].q);
    const Rows bias = golden.Heads(from, "bias")[0];
    const SwinPattern pattern = {.window = from.parameters.at("window"),
                                 .shift = from.parameters.at("shift")};
    SwinGrid grid = {.heads = static_cast<int32_t>(bias.columns),
                     .height = from.parameters.at("height"),
                     .width = from.parameters.at("width")};
    grid.bias_table.assign(bias.values.begin(), bias.values.end());
    const SwinWindows windows = WindowsOf(pattern, grid.height, grid.width);
    EXPECT_EQ(windows.window, from.parameters.at("used_window"));
    EXPECT_EQ(windows.shift, from.parameters.at("used_shift"));
    given.passes = SwinPasses(pattern, grid).value();
    given.is_defined.assign(given.passes.tokens, true);
    testing::SwinRule rule = {.height = windows.height,
                              .width = windows.width,
                              .window = windows.window,
                              .shift = windows.shift};
    for (int32_t head = 0; head < HeadsToCompare(grid.heads); ++head) {
      rule.bias_table.clear();
      for (int64_t r = 0; r < bias.count; ++r) {
        rule.bias_table.push_back(bias[r][head]);
      }
      for (const SlotKeys& slot : KeysOf(given.passes, head)) {
        comparison.ExpectSet(
            Difference(slot.keys, rule.Keys(slot.token)),
            absl::StrCat(from.name(), " head ", head, " row ", slot.token));
      }
    }
    comparison.Compare(from, given);
  }
}

TEST_P(EncoderPassesGoldenTest, SwinAsTransformers) {
  CompareSwin("swin");
  CompareSwin("swin_blocks");
}

// Keys as the module makes them of the vectors that are its queries too.
std::vector<Rows> NormalisedKeys(std::vector<Rows> heads) {
  for (Rows& rows : heads) {
    const auto columns = static_cast<double>(rows.columns);
    for (int64_t r = 0; r < rows.count; ++r) {
      double squares = 0;
      for (const double value : rows[r]) squares += value * value;
      for (int64_t c = 0; c < rows.columns; ++c) {
        rows.values[r * rows.columns + c] /=
            std::sqrt(columns) * std::sqrt(squares / columns + 1e-6);
      }
    }
  }
  return heads;
}

// What a head's slots see, round by round. A round that shows a row only itself
// has a slot if all do.
void ExpectRounds(const testing::ReformerLshRule& rule, int64_t rounds,
                  const std::vector<SlotKeys>& slots, Comparison& comparison) {
  std::vector<std::vector<VisibleKeys>> wanted(rule.real.size());
  for (size_t row = 0; row < wanted.size(); ++row) {
    std::vector<VisibleKeys> others, selves;
    for (int64_t round = 0; round < rounds; ++round) {
      VisibleKeys keys = rule.Keys(round, static_cast<int64_t>(row));
      auto& kind = keys[0].bias == 0 ? others : selves;
      for (testing::VisibleKey& key : keys) key.bias = 0;
      kind.push_back(std::move(keys));
    }
    wanted[row] = others.empty() ? selves : others;
  }
  // Slots come in the order of rounds.
  std::vector<size_t> next(wanted.size());
  for (const SlotKeys& slot : slots) {
    const size_t round = next[slot.token]++;
    ASSERT_LT(round, wanted[slot.token].size()) << "row " << slot.token;
    comparison.ExpectSet(Difference(slot.keys, wanted[slot.token][round]),
                         absl::StrCat("row ", slot.token));
  }
  for (size_t row = 0; row < wanted.size(); ++row) {
    EXPECT_EQ(next[row], wanted[row].size()) << "row " << row;
  }
}

void EncoderPassesGoldenTest::CompareReformer(const std::string& system) {
  Comparison comparison(system, backend());
  const PatternGolden& golden = comparison.golden();
  for (const Case& from : golden.cases()) {
    SCOPED_TRACE(from.name());
    GoldenCase given;
    const std::vector<Rows> q = golden.Heads(from, "q");
    given.projections.push_back(
        {q, NormalisedKeys(q), golden.Heads(from, "v")});
    ReformerTokens tokens;
    tokens.heads = static_cast<int32_t>(q.size());
    tokens.is_real = from.real();
    const bool sorts = golden.Has(from, "buckets");
    if (sorts) tokens.rounds = from.parameters.at("rounds");
    std::vector<std::vector<std::vector<int64_t>>> buckets(q.size());
    if (sorts) buckets = golden.Indices(from, "buckets");
    for (const auto& head : buckets) {
      for (const auto& round : head) {
        tokens.buckets.insert(tokens.buckets.end(), round.begin(), round.end());
      }
    }
    const ReformerLshPattern pattern = {
        .chunk_tokens = from.parameters.at("chunk"),
        .chunks_before = from.parameters.at("before"),
        .chunks_after = from.parameters.at("after"),
        .is_causal = from.parameters.at("causal")};
    given.passes = ReformerLshPasses(pattern, tokens).value();
    given.is_defined.assign(tokens.is_real.size(), true);
    for (int32_t head = 0; head < HeadsToCompare(tokens.heads); ++head) {
      ExpectRounds({.chunk = pattern.chunk_tokens,
                    .chunks_before = pattern.chunks_before,
                    .chunks_after = pattern.chunks_after,
                    .causal = pattern.is_causal,
                    .buckets = buckets[head],
                    .real = tokens.is_real},
                   tokens.rounds, KeysOf(given.passes, head), comparison);
    }
    comparison.Compare(from, given);
  }
}

TEST_P(EncoderPassesGoldenTest, ReformerLshAsTransformers) {
  CompareReformer("reformer_lsh");
  CompareReformer("reformer_blocks");
}

INSTANTIATE_TEST_SUITE_P(Paths, EncoderPassesGoldenTest,
                         ::testing::ValuesIn(AttentionPathsToTest()),
                         [](const auto& path) { return path.param; });

}  // namespace
}  // namespace sparseserve
