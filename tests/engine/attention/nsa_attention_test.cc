// Three gated branches through a backend against the rule in double precision.

#include "engine/attention/nsa_attention.h"

#include <algorithm>
#include <cmath>
#include <random>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/engine/attention/attended_passes.h"
#include "tests/engine/backend/backend_under_test.h"
#include "tests/testing/oracle_report.h"
#include "tests/testing/pooled_rules.h"

namespace sparseserve {
namespace {

using testing::AttendedRow;
using testing::AttendRow;
using testing::NsaRule;
using testing::Rows;
using testing::VisibleKey;
using testing::VisibleKeys;

constexpr int kHeads = 4;
constexpr int kKvHeads = 2;
constexpr int kHeadDim = 24;
constexpr int kGroup = kHeads / kKvHeads;

// Random projections, compressed keys and values that are means, and gates.
class NsaInput {
 public:
  NsaInput(const NsaPattern& pattern, int tokens, uint32_t seed)
      : tokens_(tokens),
        compressed_(NsaCompressedKeys(pattern, tokens)),
        random_(seed) {
    queries_ = Draw(tokens, kHeads, 2.0f);
    keys_ = Draw(tokens, kKvHeads, 1.0f);
    values_ = Draw(tokens, kKvHeads, 1.0f);
    for (auto* gates : {&gates_[0], &gates_[1], &gates_[2]}) {
      std::uniform_real_distribution<float> gate;
      for (int i = 0; i < tokens * kHeads; ++i) gates->push_back(gate(random_));
    }
    compressed_keys_ = Means(keys_, pattern);
    compressed_values_ = Means(values_, pattern);
    output_.resize(queries_.size(), NAN);
  }

  NsaAttention::Args Args() {
    const auto view = [](const std::vector<float>& values, int64_t columns) {
      return ConstMatrixView(values.data(),
                             static_cast<int64_t>(values.size()) / columns,
                             columns);
    };
    constexpr int64_t kWidth = kHeads * kHeadDim;
    NsaAttention::Args args;
    args.projection = {view(queries_, kWidth), view(keys_, kWidth),
                       view(values_, kWidth)};
    args.compressed_keys = view(compressed_keys_, kWidth);
    args.compressed_values = view(compressed_values_, kWidth);
    args.heads = kHeads;
    args.kv_heads = kKvHeads;
    args.head_dim = kHeadDim;
    args.scale = 0.25f;
    for (int branch = 0; branch < 3; ++branch) {
      args.gates[branch] = view(gates_[branch], kHeads);
    }
    args.output = {output_.data(), tokens_, kWidth};
    return args;
  }

  // One head of a matrix in double precision.
  static Rows HeadOf(const ConstMatrixView& matrix, int head) {
    Rows rows{matrix.rows, kHeadDim, {}};
    for (int64_t row = 0; row < matrix.rows; ++row) {
      const float* from = matrix.row(row) + head * kHeadDim;
      rows.values.insert(rows.values.end(), from, from + kHeadDim);
    }
    return rows;
  }

 private:
  // The query heads of a KV head have the same if `kv_heads` says so.
  std::vector<float> Draw(int tokens, int heads, float deviation) {
    std::normal_distribution<float> normal(0, deviation);
    std::vector<float> values;
    std::vector<float> head(kHeadDim);
    for (int i = 0; i < tokens * heads; ++i) {
      for (float& value : head) value = normal(random_);
      for (int copy = 0; copy < kHeads / heads; ++copy) {
        values.insert(values.end(), head.begin(), head.end());
      }
    }
    return values;
  }

  std::vector<float> Means(const std::vector<float>& rows,
                           const NsaPattern& pattern) const {
    constexpr int kWidth = kHeads * kHeadDim;
    std::vector<float> means;
    for (int key = 0; key < compressed_; ++key) {
      for (int c = 0; c < kWidth; ++c) {
        double sum = 0;
        for (int t = 0; t < pattern.compressed_tokens; ++t) {
          sum += rows[(key * pattern.stride + t) * kWidth + c];
        }
        means.push_back(static_cast<float>(sum / pattern.compressed_tokens));
      }
    }
    return means;
  }

  const int tokens_;
  const int compressed_;
  std::mt19937 random_;
  std::vector<float> queries_, keys_, values_;
  std::vector<float> compressed_keys_, compressed_values_;
  std::vector<float> gates_[3];
  std::vector<float> output_;
};

// The rule's weights of compressed keys, a row for each query head.
std::vector<std::vector<double>> Weights(const NsaRule& rule, int64_t row,
                                         int kv_head,
                                         const NsaAttention::Args& args) {
  std::vector<std::vector<double>> weights;
  for (int h = kv_head * kGroup; h < (kv_head + 1) * kGroup; ++h) {
    const Rows queries = NsaInput::HeadOf(args.projection.queries, h);
    const Rows keys = NsaInput::HeadOf(args.compressed_keys, h);
    const VisibleKeys seen = rule.Compressed(row);
    const double lse =
        AttendRow(queries[row], keys, keys, args.scale, seen).lse;
    std::vector<double>& of_head = weights.emplace_back();
    for (const VisibleKey& key : seen) {
      double score = 0;
      for (int i = 0; i < kHeadDim; ++i) {
        score += queries[row][i] * keys[key.key][i];
      }
      of_head.push_back(std::exp(score * args.scale - lse));
    }
  }
  return weights;
}

std::vector<double> ByRule(const NsaRule& rule, int64_t row, int head,
                           const NsaAttention::Args& args) {
  const Rows queries = NsaInput::HeadOf(args.projection.queries, head);
  const Rows keys = NsaInput::HeadOf(args.projection.keys, head);
  const Rows values = NsaInput::HeadOf(args.projection.values, head);
  const AttendedRow branches[] = {
      AttendRow(queries[row], NsaInput::HeadOf(args.compressed_keys, head),
                NsaInput::HeadOf(args.compressed_values, head), args.scale,
                rule.Compressed(row)),
      AttendRow(
          queries[row], keys, values, args.scale,
          rule.Selected(
              row, rule.Blocks(row, Weights(rule, row, head / kGroup, args)))),
      AttendRow(queries[row], keys, values, args.scale, rule.Window(row))};
  std::vector<double> sum(kHeadDim);
  for (int b = 0; b < 3; ++b) {
    for (int i = 0; i < kHeadDim; ++i) {
      sum[i] += args.gates[b].row(row)[head] * branches[b].output[i];
    }
  }
  return sum;
}

using NsaAttentionTest = BackendTest;

TEST_P(NsaAttentionTest, EqualsTheRule) {
  testing::OracleReport exact("nsa", "f32"), rounded("nsa", "bf16");
  const struct {
    NsaPattern pattern;
    int tokens;
  } kCases[] = {{{8, 4, 16, 4, 20}, 230},
                {{32, 16, 64, 3, 65}, 321},
                {{6, 6, 18, 5, 1}, 130},
                {{32, 16, 64, 16, 512}, 31}};
  for (const auto& c : kCases) {
    SCOPED_TRACE(c.tokens);
    NsaInput input(c.pattern, c.tokens, 5);
    const NsaAttention::Args args = input.Args();
    ASSERT_EQ(NsaAttention(backend(), DType::kF32).Run(c.pattern, args),
              absl::OkStatus());
    const NsaRule rule = {.compressed_tokens = c.pattern.compressed_tokens,
                          .stride = c.pattern.stride,
                          .block = c.pattern.block_tokens,
                          .most_blocks = c.pattern.selected_blocks,
                          .window = c.pattern.window_tokens};
    // Every row of the first blocks, and some of each place behind.
    const auto for_rows = [&](const auto& body) {
      for (int row = 0; row < c.tokens; row += row < 10 ? 1 : 11) {
        for (int head = 0; head < kHeads; ++head) {
          const float* const output =
              args.output.row(row) + int64_t{head} * kHeadDim;
          body(row, head, std::vector<double>(output, output + kHeadDim));
        }
      }
    };
    std::vector<std::vector<double>> wanted;
    for_rows([&](int row, int head, const std::vector<double>& output) {
      wanted.push_back(ByRule(rule, row, head, args));
      const double error = RowError(output, wanted.back());
      EXPECT_LE(error, 1e-5) << "row " << row << ", head " << head;
      exact.AddRow(error);
    });
    exact.AddCase();

    // Rounding shows in a row as it lies: all rows together.
    ASSERT_EQ(NsaAttention(backend(), DType::kBF16).Run(c.pattern, args),
              absl::OkStatus());
    double difference = 0, size = 0;
    size_t next = 0;
    for_rows([&](int, int, const std::vector<double>& output) {
      const std::vector<double>& row = wanted[next++];
      for (size_t i = 0; i < row.size(); ++i) {
        difference += std::pow(output[i] - row[i], 2);
        size += std::pow(row[i], 2);
      }
    });
    EXPECT_LE(std::sqrt(difference / size), 2e-2);
    rounded.AddCase();
    rounded.AddRows(static_cast<int64_t>(wanted.size()),
                    std::sqrt(difference / size));
  }
}

TEST_P(NsaAttentionTest, ABranchWithoutAGateDoesNotShow) {
  const NsaPattern pattern = {8, 4, 16, 4, 20};
  NsaInput input(pattern, 150, 6);
  NsaAttention::Args args = input.Args();
  const std::vector<float> shut(150 * kHeads, 0.0f);
  const std::vector<float> open(150 * kHeads, 1.0f);
  args.gates[0] = args.gates[1] = ConstMatrixView(shut.data(), 150, kHeads);
  args.gates[2] = ConstMatrixView(open.data(), 150, kHeads);
  ASSERT_EQ(NsaAttention(backend(), DType::kF32).Run(pattern, args),
            absl::OkStatus());
  const NsaRule rule = {.window = pattern.window_tokens};
  for (const int row : {0, 19, 20, 149}) {
    const AttendedRow window =
        AttendRow(NsaInput::HeadOf(args.projection.queries, 1)[row],
                  NsaInput::HeadOf(args.projection.keys, 1),
                  NsaInput::HeadOf(args.projection.values, 1), args.scale,
                  rule.Window(row));
    const float* const output = args.output.row(row) + kHeadDim;
    EXPECT_LE(
        RowError(std::vector<double>(output, output + kHeadDim), window.output),
        1e-5);
  }
}

// Before it looks at a row: there is nothing behind these views.
TEST_P(NsaAttentionTest, RefusesCountsBeforeItScoresRows) {
  const NsaPattern pattern = {8, 4, 16, 4, 20};
  constexpr int64_t kWidth = kHeads * kHeadDim;
  NsaInput input(pattern, 40, 7);
  NsaAttention::Args large = input.Args();
  large.projection.queries = ConstMatrixView(nullptr, (1 << 20) + 1, kWidth);
  EXPECT_EQ(NsaAttention(backend(), DType::kF32).Run(pattern, large).message(),
            "nsa: tokens is 1048577; allowed: 1 to 1048576");
  NsaAttention::Args uneven = input.Args();
  uneven.projection.queries = ConstMatrixView(nullptr, 40, kWidth);
  uneven.kv_heads = 3;
  EXPECT_EQ(NsaAttention(backend(), DType::kF32).Run(pattern, uneven).message(),
            "nsa: kv_heads is 3; allowed: divisors of 4 heads");
}

INSTANTIATE_TEST_SUITE_P(Paths, NsaAttentionTest,
                         ::testing::ValuesIn(SimdPathsToTest()),
                         [](const auto& path) { return path.param; });

}  // namespace
}  // namespace sparseserve
