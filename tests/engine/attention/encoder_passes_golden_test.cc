// Passes of encoders' patterns: what they show against the rules, as sets, and
// what the backend makes of them against the modules of transformers; see
// tests/golden/README.md.

#include <algorithm>
#include <cmath>
#include <iomanip>
#include <iostream>
#include <string>
#include <vector>

#include "engine/pattern/longformer_passes.h"
#include "gtest/gtest.h"
#include "tests/engine/attention/attended_passes.h"
#include "tests/engine/backend/backend_under_test.h"
#include "tests/testing/encoder_rules.h"
#include "tests/testing/pass_keys.h"
#include "tests/testing/pattern_golden.h"

namespace sparseserve {
namespace {

using testing::Difference;
using testing::KeysOf;
using testing::PatternGolden;
using testing::Rows;
using testing::SlotKeys;
using Case = PatternGolden::Case;

// A case's tensors, and what a rule says of them.
struct GoldenCase {
  AttentionPasses passes;
  std::vector<HeadRows> projections;
  double scale = 1;
  // Of rows that are padding nothing is said.
  std::vector<bool> is_defined;
};

// Compares a system's cases on one path, and prints the worst.
class Comparison {
 public:
  Comparison(const std::string& system, Backend& backend)
      : system_(system), golden_(system), backend_(backend) {}

  const PatternGolden& golden() const { return golden_; }

  HeadRows Projection(const Case& from, const std::string& prefix = "") const {
    return {golden_.Heads(from, prefix + "q"),
            golden_.Heads(from, prefix + "k"),
            golden_.Heads(from, prefix + "v")};
  }

  void Compare(const Case& from, const GoldenCase& given) {
    SCOPED_TRACE(system_ + "/" + from.name());
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
        worst_rounded_ = std::max(worst_rounded_, total);
      }
    }
  }

  ~Comparison() {
    std::cout << "| " << std::left << std::setw(17) << system_ << std::right
              << " | " << std::setw(2) << golden_.cases().size() << " cases | "
              << std::setw(5) << rows_ << " rows | f32 " << std::setw(11)
              << worst_ << " | bf16 " << std::setw(10) << worst_rounded_ << " |"
              << std::endl;
    EXPECT_GT(rows_, 0);
  }

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
    worst_ = std::max(worst_, row_error);
    ++rows_;
  }

  std::string system_;
  PatternGolden golden_;
  Backend& backend_;
  int64_t rows_ = 0;
  double worst_ = 0;
  double worst_rounded_ = 0;
};

double Scale(const std::vector<Rows>& queries) {
  return 1 / std::sqrt(static_cast<double>(queries[0].columns));
}

class EncoderPassesGoldenTest : public BackendTest {
 protected:
  void CompareLongformer(const std::string& system);
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
    for (int32_t head = 0; head < tokens.heads; ++head) {
      for (const SlotKeys& slot : KeysOf(given.passes, head)) {
        EXPECT_EQ(Difference(slot.keys, rule.Keys(slot.token)), "")
            << from.name() << " head " << head << " row " << slot.token;
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

INSTANTIATE_TEST_SUITE_P(Paths, EncoderPassesGoldenTest,
                         ::testing::ValuesIn(AttentionPathsToTest()),
                         [](const auto& path) { return path.param; });

}  // namespace
}  // namespace sparseserve
