// Passes of systems that no module at hand computes, on every path, against
// their rules in double precision.

#include <cmath>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "engine/pattern/axial_passes.h"
#include "engine/pattern/big_bird_passes.h"
#include "engine/pattern/etc_passes.h"
#include "engine/pattern/h_transformer_passes.h"
#include "engine/pattern/longformer_passes.h"
#include "engine/pattern/routing_passes.h"
#include "engine/pattern/token_graph_passes.h"
#include "gtest/gtest.h"
#include "tests/engine/attention/rule_comparison.h"
#include "tests/testing/content_rules.h"
#include "tests/testing/encoder_rules.h"
#include "tests/testing/etc_rule.h"
#include "tests/testing/pooled_rules.h"

namespace sparseserve {
namespace {

using testing::AttendedRow;
using testing::AttendRow;
using testing::VisibleKeys;

constexpr int kHeads = 2;

double ScaleOf(int head_dim) { return 1 / std::sqrt(head_dim); }

// What a row of a head sees attends; rows of padding see nothing.
AttendedRow AttendReal(const HeadRows& from, int32_t head, int64_t row,
                       const std::vector<bool>& real,
                       const VisibleKeys& visible) {
  return AttendRow(from.q[head][row], from.k[head], from.v[head],
                   ScaleOf(static_cast<int>(from.q[head].columns)),
                   real[row] ? visible : VisibleKeys());
}

// The products of centroids and vectors of length 1, [clusters][tokens].
std::vector<std::vector<double>> NearnessTo(const std::vector<float>& centroids,
                                            int head, int clusters,
                                            const testing::Rows& rows) {
  std::vector<std::vector<double>> scores(clusters);
  for (int cluster = 0; cluster < clusters; ++cluster) {
    const float* centroid =
        centroids.data() + (head * clusters + cluster) * rows.columns;
    for (int64_t row = 0; row < rows.count; ++row) {
      double dot = 0, squares = 0;
      for (int64_t c = 0; c < rows.columns; ++c) {
        dot += centroid[c] * rows[row][c];
        squares += rows[row][c] * rows[row][c];
      }
      scores[cluster].push_back(dot / std::sqrt(squares));
    }
  }
  return scores;
}

// [heads][rows, columns] one after another.
std::vector<float> Flat(const std::vector<testing::Rows>& heads) {
  std::vector<float> flat;
  for (const testing::Rows& rows : heads) {
    flat.insert(flat.end(), rows.values.begin(), rows.values.end());
  }
  return flat;
}

struct Length {
  int tokens = 0;
  int left = 0;  // of padding
  int right = 0;
  double query_scale = 1;  // peaked where it is large
};

// One token, odd numbers, padding on either side, peaked weights.
std::vector<Length> Lengths() {
  return {{1},           {5, 4},          {63},           {65, 0, 9},
          {64, 0, 0, 8}, {131, 17, 0, 8}, {150, 0, 70, 8}};
}

std::string NameOf(const Length& length) {
  return absl::StrCat(length.tokens, " tokens, ", length.left, " and ",
                      length.right, " of padding, queries * ",
                      length.query_scale);
}

TEST(EncoderPassesTest, AxialAttentionIsThatOfItsRule) {
  RuleComparison comparison("axial");
  const std::vector<std::vector<int32_t>> shapes = {
      {1}, {9, 7}, {3, 67}, {67, 2}, {4, 5, 7}};
  for (const std::vector<int32_t>& shape : shapes) {
    int places = 1;
    for (const int32_t extent : shape) places *= extent;
    for (size_t axis = 0; axis < shape.size(); ++axis) {
      for (const bool is_causal : {false, true}) {
        const int left = axis == 1 ? places / 5 : 0;
        const int right = axis == 0 ? places / 7 : 0;
        testing::AxialRule rule;
        rule.shape.assign(shape.begin(), shape.end());
        rule.axis = static_cast<int>(axis);
        rule.causal = is_causal;
        rule.real = RealTokens(places, left, right);
        const HeadRows rows = DrawHeads(kHeads, places, 12, is_causal ? 8 : 1,
                                        static_cast<uint32_t>(places));
        comparison.Compare(
            absl::StrCat(places, " places, axis ", axis),
            AxialPasses({rule.axis, is_causal}, {kHeads, shape, rule.real})
                .value(),
            {rows}, ScaleOf(12), [&](int32_t head, int64_t row) {
              return AttendReal(rows, head, row, rule.real, rule.Keys(row));
            });
      }
    }
  }
}

// What no module at hand has: dilation, and causality.
TEST(EncoderPassesTest, DilatedLongformerIsThatOfItsRule) {
  RuleComparison comparison("longformer_dilated");
  for (const Length& length : Lengths()) {
    for (const bool is_causal : {false, true}) {
      const LongformerPattern pattern = {
          .one_sided_window = 9, .dilations = {1, 3}, .is_causal = is_causal};
      LongformerTokens tokens = {
          .heads = kHeads,
          .is_real = RealTokens(length.tokens, length.left, length.right)};
      testing::LongformerRule rule;
      rule.one_sided_window = pattern.one_sided_window;
      rule.causal = is_causal;
      rule.real = tokens.is_real;
      rule.global.resize(length.tokens);
      for (int i = length.left; i < length.tokens - length.right; i += 40) {
        tokens.global.push_back(i);
        rule.global[i] = true;
      }
      const HeadRows local =
          DrawHeads(kHeads, length.tokens, 12, length.query_scale, 3);
      const HeadRows global =
          DrawHeads(kHeads, length.tokens, 12, length.query_scale, 4);
      comparison.Compare(
          absl::StrCat(NameOf(length), ", causal ", is_causal),
          LongformerPasses(pattern, tokens).value(), {local, global},
          ScaleOf(12), [&](int32_t head, int64_t row) {
            rule.dilation = pattern.dilations[head];
            return AttendReal(rule.global[row] ? global : local, head, row,
                              rule.real, rule.Keys(row));
          });
    }
  }
}

TEST(EncoderPassesTest, TokenGraphsAreThatOfTheirRule) {
  RuleComparison comparison("token_graph");
  for (const Length& length : Lengths()) {
    std::mt19937 random(length.tokens);
    testing::TokenGraphRule rules[kHeads];
    TokenGraphPattern pattern;
    TokenGraph graph = {
        .heads = kHeads,
        .is_real = RealTokens(length.tokens, length.left, length.right)};
    for (int head = 0; head < kHeads; ++head) {
      pattern.degrees.push_back(head == 0 ? 1 : 9);
      rules[head].tokens = length.tokens;
      rules[head].degree = pattern.degrees[head];
      rules[head].real = graph.is_real;
      graph.arcs.emplace_back();
      for (int token = 1; token < length.tokens; ++token) {
        const auto other = static_cast<int32_t>(
            random() % (head == 0 ? token : length.tokens));
        graph.arcs[head].push_back({token, other});
        rules[head].arcs.emplace_back(token, other);
      }
    }
    const HeadRows rows =
        DrawHeads(kHeads, length.tokens, 20, length.query_scale, 3);
    comparison.Compare(NameOf(length), TokenGraphPasses(pattern, graph).value(),
                       {rows}, ScaleOf(20), [&](int32_t head, int64_t row) {
                         return AttendReal(rows, head, row, graph.is_real,
                                           rules[head].Keys(row));
                       });
  }
}

// The mean of what clusters make of a row, those that show it nothing too; the
// LSE is that of all they show it.
AttendedRow AttendRouting(const testing::RoutingRule& rule,
                          const HeadRows& from, int32_t head, int64_t row) {
  AttendedRow mean = AttendReal(from, head, row, rule.real, {});
  const std::vector<int64_t> clusters =
      rule.real[row] ? rule.ClustersOf(row) : std::vector<int64_t>();
  double denominator = 0;
  for (const int64_t cluster : clusters) {
    const AttendedRow attended =
        AttendReal(from, head, row, rule.real, rule.Keys(cluster, row));
    for (size_t c = 0; c < mean.output.size(); ++c) {
      mean.output[c] +=
          attended.output[c] / static_cast<double>(clusters.size());
    }
    denominator += std::exp(attended.lse);
  }
  mean.lse = std::log(denominator);
  return mean;
}

TEST(EncoderPassesTest, RoutingIsThatOfItsRule) {
  RuleComparison comparison("routing");
  for (const Length& length : Lengths()) {
    for (const bool is_causal : {true, false}) {
      // A few clusters leave tokens out, many take all.
      for (const int clusters : {3, 12}) {
        const RoutingPattern pattern = {.capacity = 1 + length.tokens / 4,
                                        .is_causal = is_causal};
        const int head_dim = 8;
        const HeadRows rows = DrawHeads(kHeads, length.tokens, head_dim,
                                        length.query_scale, clusters);
        const std::vector<float> centroids =
            Flat(DrawHeads(kHeads, clusters, head_dim, 1, 77).k);
        const std::vector<float> queries = Interleaved(rows.q);
        const std::vector<float> keys = Interleaved(rows.k);
        RoutingVectors vectors = {
            .heads = kHeads,
            .head_dim = head_dim,
            .is_real = RealTokens(length.tokens, length.left, length.right),
            .queries = {queries.data(), length.tokens, kHeads * head_dim},
            .keys = {keys.data(), length.tokens, kHeads * head_dim},
            .centroids = centroids};
        testing::RoutingRule rules[kHeads];
        for (int head = 0; head < kHeads; ++head) {
          rules[head] = {
              .capacity = pattern.capacity,
              .causal = is_causal,
              .query_scores =
                  NearnessTo(centroids, head, clusters, rows.q[head]),
              .key_scores = NearnessTo(centroids, head, clusters, rows.k[head]),
              .real = vectors.is_real};
        }
        const RoutingClusters chosen =
            ChooseRoutingClusters(pattern, vectors).value();
        comparison.Compare(
            absl::StrCat(NameOf(length), ", ", clusters, " clusters"),
            RoutingPasses(pattern, chosen).value(), {rows}, ScaleOf(head_dim),
            [&](int32_t head, int64_t row) {
              return AttendRouting(rules[head], rows, head, row);
            });
      }
    }
  }
}

TEST(EncoderPassesTest, BigBirdWithExtraTokensIsThatOfItsRule) {
  RuleComparison comparison("big_bird_etc");
  std::mt19937 random(9);
  struct Case {
    int block, blocks, random, extra, left, right;
    double query_scale;
  };
  for (const Case& given : {Case{1, 3, 0, 1, 0, 0, 1},
                            {5, 13, 2, 3, 7, 0, 8},
                            {16, 8, 1, 65, 0, 20, 1},
                            {64, 4, 2, 10, 0, 5, 8},
                            {7, 20, 3, 64, 30, 0, 8}}) {
    const int count = given.block * given.blocks;
    const BigBirdPattern pattern = {.block_tokens = given.block,
                                    .random_blocks = given.random,
                                    .extra_tokens = given.extra};
    BigBirdTokens tokens = {
        .heads = kHeads, .is_real = RealTokens(count, given.left, given.right)};
    std::vector<bool> real(given.extra, true);
    real.insert(real.end(), tokens.is_real.begin(), tokens.is_real.end());
    testing::BigBirdEtcRule rules[kHeads];
    for (auto& rule : rules) {
      rule.extra = given.extra;
      rule.rest = {.block = given.block, .real = tokens.is_real};
      for (int row = 1; row < given.blocks - 1; ++row) {
        rule.rest.random_blocks.emplace_back();
        for (int i = 0; i < given.random; ++i) {
          tokens.drawn.push_back(static_cast<int32_t>(random() % given.blocks));
          rule.rest.random_blocks.back().push_back(tokens.drawn.back());
        }
      }
    }
    const HeadRows rows =
        DrawHeads(kHeads, given.extra + count, 16, given.query_scale, 8);
    comparison.Compare(absl::StrCat(given.extra, " + ", count, " tokens"),
                       BigBirdPasses(pattern, tokens).value(), {rows},
                       ScaleOf(16), [&](int32_t head, int64_t row) {
                         return AttendReal(rows, head, row, real,
                                           rules[head].Keys(row));
                       });
  }
}

// A global and a long sequence with labels, and what ETC makes of them.
class EtcCase {
 public:
  EtcCase(const Length& length, int global, uint32_t seed)
      : random_(seed), global_(global) {
    const int count = length.tokens;
    rule_.radius = pattern_.radius;
    rule_.max_distance = pattern_.max_distance;
    rule_.global_tokens = global;
    real_ = RealTokens(count, length.left, length.right);
    for (int token = 0; token < count; ++token) {
      rule_.segments.push_back(real_[token] ? token / 50 : -1);
    }
    rule_.long_to_global = DrawLabels(count, global);
    rule_.global_to_long = DrawLabels(global, count);
    for (auto& labels : rule_.global_to_long) {
      for (int token = 0; token < count; ++token) {
        if (!real_[token]) labels[token] = -1;
      }
    }
    for (int piece = 0; piece < 4; ++piece) {
      rows_.push_back(DrawHeads(kHeads, global + count, kHeadDim,
                                length.query_scale, random_()));
    }
    // Rows have one query for both of their pieces.
    rows_[1].q = rows_[0].q;
    rows_[3].q = rows_[2].q;
    for (HeadRows& labels : labels_) {
      labels = DrawHeads(kHeads, kLabels, kHeadDim, 1, random_());
    }
  }

  AttentionPasses Passes() const {
    EtcTokens tokens = {.heads = kHeads, .global_tokens = global_};
    tokens.segments.assign(rule_.segments.begin(), rule_.segments.end());
    for (const auto& row : rule_.long_to_global) {
      tokens.long_to_global.insert(tokens.long_to_global.end(), row.begin(),
                                   row.end());
    }
    for (const auto& row : rule_.global_to_long) {
      tokens.global_to_long.insert(tokens.global_to_long.end(), row.begin(),
                                   row.end());
    }
    const auto count = static_cast<int64_t>(rule_.segments.size());
    tokens.long_labels = Scores(0, global_, count);
    if (global_ > 0) tokens.global_labels = Scores(1, 0, global_);
    return EtcPasses(pattern_, tokens).value();
  }

  AttendedRow Attend(int32_t head, int64_t row) const {
    const bool is_long = row >= global_;
    const int64_t own = is_long ? row - global_ : row;
    if (is_long && !real_[own])
      return {std::vector<double>(kHeadDim), -INFINITY};
    const int first = is_long ? 0 : 2;
    auto to_own = is_long ? rule_.LongToLong(own) : rule_.GlobalToGlobal(own);
    auto to_other = is_long ? rule_.LongToGlobal(own) : rule_.GlobalToLong(own);
    // Long tokens stand behind the global ones.
    for (auto& seen : is_long ? to_own : to_other) seen.key += global_;
    const HeadRows& labels = labels_[is_long ? 0 : 1];
    testing::EtcLabels table = {labels.k[head], {}};
    for (int label = 0; label < kLabels; ++label) {
      table.biases.push_back(labels.v[head][label][0]);
    }
    return testing::AttendEtcRow(
        rows_[first].q[head][row],
        {{rows_[first].k[head], rows_[first].v[head], to_own},
         {rows_[first + 1].k[head], rows_[first + 1].v[head], to_other}},
        table);
  }

  const std::vector<HeadRows>& rows() const { return rows_; }
  static constexpr int kHeadDim = 16;

 private:
  static constexpr int kLabels = 13;

  std::vector<std::vector<int64_t>> DrawLabels(int rows, int keys) {
    std::vector<std::vector<int64_t>> labels(rows);
    for (auto& row : labels) {
      for (int key = 0; key < keys; ++key) {
        row.push_back(static_cast<int64_t>(random_() % (kLabels + 1)) - 1);
      }
    }
    return labels;
  }

  // Of rows [first, first + count).
  EtcLabelScores Scores(int table, int64_t first, int64_t count) const {
    const std::vector<float> queries = Interleaved(rows_[table * 2].q);
    const std::vector<float> keys = Interleaved(labels_[table].k);
    const std::vector<float> values = Interleaved(labels_[table].v);
    std::vector<float> biases;
    for (int i = 0; i < kLabels * kHeads; ++i) {
      biases.push_back(values[i * kHeadDim]);
    }
    const int64_t width = kHeads * kHeadDim;
    return ScoreEtcLabels({queries.data() + first * width, count, width},
                          {{keys.data(), kLabels, width}, biases}, kHeads,
                          static_cast<float>(ScaleOf(kHeadDim)))
        .value();
  }

  std::mt19937 random_;
  const EtcPattern pattern_ = {.radius = 9, .max_distance = 4};
  const int global_;
  std::vector<bool> real_;
  testing::EtcRule rule_;
  std::vector<HeadRows> rows_;  // [pieces]
  // Of long rows, and of global ones: keys, and in the first column of values
  // biases.
  HeadRows labels_[2];
};

TEST(EncoderPassesTest, EtcIsThatOfItsRule) {
  RuleComparison comparison("etc");
  for (const Length& length : Lengths()) {
    for (const int global : {0, 1, 7, 70}) {
      const EtcCase given(length, global, length.tokens + global);
      comparison.Compare(
          absl::StrCat(global, " global, ", NameOf(length)), given.Passes(),
          given.rows(), ScaleOf(EtcCase::kHeadDim),
          [&](int32_t head, int64_t row) { return given.Attend(head, row); });
    }
  }
}

TEST(EncoderPassesTest, HTransformerIsThatOfItsRule) {
  RuleComparison comparison("h_transformer");
  for (const Length& length : Lengths()) {
    for (const int block : {1, 4, 16, 70}) {
      const bool is_causal = block == 4 || length.tokens % 2 == 0;
      const testing::HTransformerRule rule = {
          .block = block,
          .causal = is_causal,
          .real = RealTokens(length.tokens, length.left, length.right)};
      const HeadRows rows =
          DrawHeads(kHeads, length.tokens, 12, length.query_scale, block);
      comparison.Compare(
          absl::StrCat("blocks of ", block, ", ", NameOf(length)),
          HTransformerPasses({block, is_causal}, {kHeads, rule.real}).value(),
          {rows}, ScaleOf(12), [&](int32_t head, int64_t row) {
            if (!rule.real[row])
              return AttendReal(rows, head, row, rule.real, {});
            return rule.Attend(row, rows.q[head], rows.k[head], rows.v[head],
                               ScaleOf(12));
          });
    }
  }
}

}  // namespace
}  // namespace sparseserve
