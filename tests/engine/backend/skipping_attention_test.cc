// Attention that may leave out blocks of negligible weight
// (BlockLayout::skip_below) against the rule in double precision.

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <memory>
#include <numeric>
#include <string>
#include <vector>

#include "engine/layout/layout_builder.h"
#include "engine/tensor/quant_blocks.h"
#include "gtest/gtest.h"
#include "tests/engine/backend/backend_under_test.h"
#include "tests/testing/normal_draws.h"
#include "tests/testing/oracle_report.h"
#include "tests/testing/skip_softmax_rule.h"

namespace sparseserve {
namespace {

using testing::SkipSoftmaxChoice;
using testing::SkipSoftmaxKeeps;
using testing::SkipSoftmaxRows;

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr int kTokens = 1000;  // 16 blocks, the last of them not full

// Which rows decide together, in the order (row, head of the group), and how
// far they look back.
struct Deciders {
  int rows = 1;
  int stretch = 0;
};

// How rows are asked for.
struct Kind {
  bool decodes = false;
  DType dtype = DType::kF32;
  bool is_on_tiles = false;  // on paths that have them
};

// The last rows of a sequence whose blocks have keys of different lengths: the
// first block and some others are heavy, others negligible to all rows.
class SkippingRows {
 public:
  struct Shape {
    int kv_heads = 2;
    int group = 2;
    int head_dim = 32;
  };

  SkippingRows(const Shape& shape, const Kind& kind, int rows,
               float softcap = 0)
      : shape_(shape), kind_(kind), count_(rows) {
    const int pages = (kTokens + kPageTokens - 1) / kPageTokens;
    pages_.resize(pages);
    std::iota(pages_.rbegin(), pages_.rend(), 0);
    table_ = pages_;
    const int64_t elements =
        int64_t{pages} * kPageTokens * shape.kv_heads * shape.head_dim;
    // What no position owns is NaN, as a reused page's memory might be.
    keys_.assign(elements, std::numeric_limits<float>::quiet_NaN());
    values_ = keys_;
    NormalDraws draws(11);
    for (int position = 0; position < kTokens; ++position) {
      constexpr float kLengths[] = {3, 0.2f, 1, 0.2f, 0.1f, 2};
      const float length =
          kLengths[position / kPageTokens % std::size(kLengths)];
      for (int head = 0; head < shape.kv_heads; ++head) {
        for (int i = 0; i < shape.head_dim; ++i) {
          keys_[At(position, head) + i] = Stored(length * draws());
          values_[At(position, head) + i] = Stored(draws());
        }
      }
    }
    known_scores_.resize(int64_t{rows} * heads());
    queries_.resize(int64_t{rows} * width());
    for (float& query : queries_) query = Stored(2 * draws());
    args_.heads = heads();
    args_.scale = 1.0f / std::sqrt(static_cast<float>(shape.head_dim));
    args_.softcap = softcap;
    spans_ = {table_};
    args_.pages = spans_;
    if (kind.decodes) args_.groups.decode_rows = rows;
    if (kind.is_on_tiles) args_.groups.prefill_rows = rows;
    Visit([](int, int) { return true; }, {});
  }
  SkippingRows(const SkippingRows&) = delete;

  int heads() const { return shape_.kv_heads * shape_.group; }
  int64_t width() const { return int64_t{heads()} * shape_.head_dim; }
  int position(int row) const { return kTokens - count_ + row; }
  const BlockLayout& layout() const { return layout_; }
  void SetKey(int position, float value) {
    for (int head = 0; head < shape_.kv_heads; ++head) {
      std::fill_n(keys_.begin() + At(position, head), shape_.head_dim, value);
    }
  }

  // Rows see keys j <= i for which `shows` says so, by this predicate.
  void Visit(std::function<bool(int i, int j)> shows,
             const KeyPredicate& predicate) {
    shows_ = std::move(shows);
    LayoutBuilder builder(shape_.kv_heads);
    for (int row = 0; row < count_;) {
      QueryTile tile;
      tile.first_row = row;
      tile.first_position = position(row);
      const int end = (position(row) / kPageTokens + 1) * kPageTokens;
      tile.rows = std::min(end - position(row), count_ - row);
      builder.AddTile(tile);
      const int32_t list = builder.AddListOf(predicate);
      for (int head = 0; head < shape_.kv_heads; ++head) {
        builder.Assign(head, list);
      }
      row += tile.rows;
    }
    layout_ = builder.layout();
    ASSERT_EQ(layout_.Validate(), absl::OkStatus());
  }

  struct Found {
    std::vector<double> output;  // [rows, heads * head_dim]
    std::vector<double> lse;     // [rows, heads]
    int64_t skipped = 0;         // visits of a row and head
    double margin = kInfinity;   // of the rule alone
  };

  Found Attend(Backend& backend, double threshold) {
    BlockLayout layout = layout_;
    layout.skip_below.assign(layout.list_of.size(),
                             static_cast<float>(std::log(threshold)));
    const std::vector<std::byte> keys = Bytes(keys_), values = Bytes(values_);
    AttentionArgs args = args_;
    args.layout = &layout;
    args.queries = ConstMatrixView(queries_.data(), count_, width());
    args.kv = {const_cast<std::byte*>(keys.data()),
               const_cast<std::byte*>(values.data()),
               kind_.dtype,
               static_cast<int32_t>(pages_.size()),
               shape_.kv_heads,
               shape_.head_dim};
    std::vector<float> output(queries_.size());
    std::vector<float> lse(int64_t{count_} * heads());
    std::vector<int64_t> skipped(layout.list_of.size(), 0);
    args.output = {output.data(), count_, width()};
    args.lse = lse.data();
    args.skipped = skipped.data();
    backend.Attention(args);
    return {{output.begin(), output.end()},
            {lse.begin(), lse.end()},
            std::accumulate(skipped.begin(), skipped.end(), int64_t{0})};
  }

  // What the rule gives.
  Found ByRule(double threshold, const Deciders& deciders) const {
    Found found;
    found.output.resize(queries_.size());
    found.lse.resize(int64_t{count_} * heads());
    for (const QueryTile& tile : layout_.tiles) {
      const int packed = tile.rows * shape_.group;
      for (int kv_head = 0; kv_head < shape_.kv_heads; ++kv_head) {
        for (int first = 0; first < packed; first += deciders.rows) {
          AddByRule(tile, kv_head, first,
                    std::min(deciders.rows, packed - first), threshold,
                    deciders.stretch, found);
        }
      }
    }
    return found;
  }

 private:
  int64_t At(int position, int kv_head) const {
    const int64_t page = pages_[position / kPageTokens];
    return ((page * shape_.kv_heads + kv_head) * kPageTokens +
            position % kPageTokens) *
           shape_.head_dim;
  }
  float Stored(float value) const {
    return kind_.dtype == DType::kF32 ? value
                                      : BFloat16ToFloat(FloatToBFloat16(value));
  }
  std::vector<std::byte> Bytes(const std::vector<float>& from) const {
    std::vector<std::byte> to(from.size() * BlockBytes(kind_.dtype));
    if (kind_.dtype == DType::kF32) {
      std::memcpy(to.data(), from.data(), to.size());
    } else {
      for (size_t i = 0; i < from.size(); ++i) {
        const uint16_t bits = FloatToBFloat16(from[i]);
        std::memcpy(to.data() + 2 * i, &bits, sizeof(bits));
      }
    }
    return to;
  }

  // Of all earlier keys, hidden or not.
  const std::vector<double>& Scores(int row, int head) const {
    std::vector<double>& scores = known_scores_[row * heads() + head];
    if (!scores.empty()) return scores;
    const float* q =
        queries_.data() + row * width() + int64_t{head} * shape_.head_dim;
    for (int key = 0; key <= position(row); ++key) {
      const float* k = keys_.data() + At(key, head / shape_.group);
      double product = 0;
      for (int i = 0; i < shape_.head_dim; ++i) product += double{q[i]} * k[i];
      const double score = product * args_.scale;
      scores.push_back(args_.softcap > 0
                           ? args_.softcap * std::tanh(score / args_.softcap)
                           : score);
    }
    return scores;
  }

  // Of `count` rows of a tile and KV head from packed row `first` on.
  void AddByRule(const QueryTile& tile, int kv_head, int first, int count,
                 double threshold, int stretch, Found& found) const {
    SkipSoftmaxRows rows;
    std::vector<std::vector<double>> scores;  // [rows][keys]
    for (int block = 0; block <= tile.first_position / kPageTokens; ++block) {
      rows.blocks.push_back(block);
    }
    for (int r = first; r < first + count; ++r) {
      const int row = tile.first_row + r / shape_.group;
      const int head = kv_head * shape_.group + r % shape_.group;
      scores.emplace_back();
      rows.greatest.emplace_back(rows.blocks.size(), -kInfinity);
      for (int key = 0; key <= position(row); ++key) {
        scores.back().push_back(
            shows_(position(row), key) ? Scores(row, head)[key] : -kInfinity);
        double& greatest = rows.greatest.back()[key / kPageTokens];
        greatest = std::max(greatest, scores.back().back());
      }
    }
    DropUnlisted(rows);
    const SkipSoftmaxChoice choice = SkipSoftmaxKeeps(rows, threshold, stretch);
    found.margin = std::min(found.margin, choice.margin);
    for (size_t b = 0; b < rows.blocks.size(); ++b) {
      if (!choice.keeps[b]) found.skipped += count;
    }
    for (int r = 0; r < count; ++r) {
      AddRow(tile.first_row + (first + r) / shape_.group,
             kv_head * shape_.group + (first + r) % shape_.group, scores[r],
             rows.blocks, choice.keeps, found);
    }
  }

  // Blocks that no row of the tile sees are in no list: none looks at them,
  // whichever rows decide together.
  void DropUnlisted(SkipSoftmaxRows& rows) const {
    const int tile = rows.blocks.back();
    SkipSoftmaxRows listed;
    listed.greatest.resize(rows.greatest.size());
    for (size_t b = 0; b < rows.blocks.size(); ++b) {
      bool is_listed = false;
      for (int row = 0; row < count_ && !is_listed; ++row) {
        if (position(row) / kPageTokens != tile) continue;
        for (int key = rows.blocks[b] * kPageTokens;
             key <= std::min(position(row),
                             rows.blocks[b] * kPageTokens + kPageTokens - 1);
             ++key) {
          is_listed = is_listed || shows_(position(row), key);
        }
      }
      if (!is_listed) continue;
      listed.blocks.push_back(rows.blocks[b]);
      for (size_t r = 0; r < rows.greatest.size(); ++r) {
        listed.greatest[r].push_back(rows.greatest[r][b]);
      }
    }
    rows = listed;
  }

  void AddRow(int row, int head, const std::vector<double>& scores,
              const std::vector<int>& blocks, const std::vector<bool>& keeps,
              Found& found) const {
    double maximum = -kInfinity, sum = 0;
    const auto for_kept = [&](const auto& body) {
      for (size_t b = 0; b < blocks.size(); ++b) {
        if (!keeps[b]) continue;
        const int end = std::min((blocks[b] + 1) * kPageTokens,
                                 static_cast<int>(scores.size()));
        for (int key = blocks[b] * kPageTokens; key < end; ++key) body(key);
      }
    };
    for_kept([&](int key) { maximum = std::max(maximum, scores[key]); });
    double* output =
        found.output.data() + row * width() + int64_t{head} * shape_.head_dim;
    for_kept([&](int key) {
      const double weight = std::exp(scores[key] - maximum);
      sum += weight;
      const float* values = values_.data() + At(key, head / shape_.group);
      for (int i = 0; i < shape_.head_dim; ++i) output[i] += weight * values[i];
    });
    for (int i = 0; i < shape_.head_dim; ++i) output[i] /= sum;
    found.lse[int64_t{row} * heads() + head] = maximum + std::log(sum);
  }

  const Shape shape_;
  const Kind kind_;
  const int count_;
  std::vector<PageId> pages_;
  std::vector<PageId> table_;
  std::vector<absl::Span<const PageId>> spans_;
  std::vector<float> keys_, values_;  // [pages][kv_heads][64][head_dim]
  std::vector<float> queries_;        // [rows, heads * head_dim]
  std::function<bool(int, int)> shows_;
  mutable std::vector<std::vector<double>> known_scores_;  // [rows * heads]
  BlockLayout layout_;
  AttentionArgs args_;
};

double Furthest(const std::vector<double>& a, const std::vector<double>& b) {
  double furthest = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    const double distance = std::abs(a[i] - b[i]);
    if (!(distance <= furthest)) {
      furthest = std::isnan(distance) ? kInfinity : distance;
    }
  }
  return furthest;
}

double Largest(const std::vector<double>& values) {
  return Furthest(values, std::vector<double>(values.size()));
}

// Rows that decide together on a path, and what storing their weights costs.
struct Expected {
  Kind kind;
  int rows = 1;  // of the query
  Deciders deciders;
  double error = 1e-5;
};

// Kernels look at six rows at a time, tiles at 32. Few rows, whose blocks may
// be split between workers, look back as far as a stretch of 8 blocks.
std::vector<Expected> ExpectedOf(const std::string& path) {
  if (path == kAmxPath) {
    return {{{false, DType::kBF16, true}, 50, {32, 0}, 2e-2},
            {{false, DType::kBF16, true}, 1, {32, 0}, 2e-2},
            {{true, DType::kBF16}, 1, {6, 8}}};
  }
  return {{{false, DType::kF32}, 50, {6, 0}},
          {{false, DType::kBF16}, 50, {6, 0}},
          {{false, DType::kF32}, 7, {6, 8}},
          {{true, DType::kF32}, 1, {6, 8}},
          {{true, DType::kBF16}, 1, {6, 8}}};
}

class SkippingAttentionTest : public BackendTest {
 protected:
  std::vector<Expected> Cases() const { return ExpectedOf(GetParam()); }
};

TEST_P(SkippingAttentionTest, KeepsWhatTheRuleKeeps) {
  testing::OracleReport sets("skip_softmax", "sets");
  testing::OracleReport exact("skip_softmax", "f32");
  testing::OracleReport rounded("skip_softmax", "bf16");
  int64_t skipped = 0;
  for (const Expected& expected : Cases()) {
    for (const int head_dim : {32, 24}) {
      SkippingRows rows({.head_dim = head_dim}, expected.kind, expected.rows);
      for (const double threshold : {1.0, 1e-2}) {
        SCOPED_TRACE(::testing::Message()
                     << expected.rows << " rows, head_dim " << head_dim
                     << ", threshold " << threshold);
        const auto wanted = rows.ByRule(threshold, expected.deciders);
        ASSERT_GT(wanted.margin, 1e-4) << "draw other numbers";
        const auto found = rows.Attend(backend(), threshold);
        EXPECT_EQ(found.skipped, wanted.skipped);
        EXPECT_LE(Furthest(found.lse, wanted.lse), 1e-4);
        const double error = Furthest(found.output, wanted.output);
        EXPECT_LE(error, expected.error);
        skipped += wanted.skipped;
        const auto attended = static_cast<int64_t>(wanted.lse.size());
        sets.AddCase();
        sets.AddRows(attended, 0);
        testing::OracleReport& report =
            expected.kind.dtype == DType::kF32 ? exact : rounded;
        report.AddCase();
        report.AddRows(attended, error / Largest(wanted.output));
      }
    }
  }
  EXPECT_GT(skipped, 100);
}

// Rows that see nothing of a block, or not all of it, do not look at the rest.
TEST_P(SkippingAttentionTest, HiddenKeysDecideNothing) {
  const struct {
    KeyPredicate predicate;
    std::function<bool(int, int)> shows;
  } kRules[] = {
      {{.window_tokens = 300}, [](int i, int j) { return j > i - 300; }},
      {{SinkWindowKeys{70, 300}},
       [](int i, int j) { return j < 70 || j > i - 300; }},
      {{DilatedKeys{3, 250}},
       [](int i, int j) { return (i - j) % 3 == 0 && i - j < 750; }}};
  int64_t skipped = 0;
  for (const Expected& expected : Cases()) {
    SkippingRows rows({}, expected.kind, expected.rows);
    for (const auto& rule : kRules) {
      rows.Visit(rule.shows, rule.predicate);
      const auto wanted = rows.ByRule(0.1, expected.deciders);
      ASSERT_GT(wanted.margin, 1e-4) << "draw other numbers";
      const auto found = rows.Attend(backend(), 0.1);
      EXPECT_EQ(found.skipped, wanted.skipped);
      EXPECT_LE(Furthest(found.output, wanted.output), expected.error);
      skipped += wanted.skipped;
    }
  }
  EXPECT_GT(skipped, 100);
}

TEST_P(SkippingAttentionTest, CappedScoresAreWhatIsCompared) {
  for (const Expected& expected : Cases()) {
    SkippingRows rows({}, expected.kind, expected.rows, /*softcap=*/4);
    const auto wanted = rows.ByRule(0.05, expected.deciders);
    ASSERT_GT(wanted.margin, 1e-4) << "draw other numbers";
    EXPECT_GT(wanted.skipped, 0);
    const auto found = rows.Attend(backend(), 0.05);
    EXPECT_EQ(found.skipped, wanted.skipped);
    EXPECT_LE(Furthest(found.output, wanted.output), expected.error);
  }
}

// Of a larger threshold more is left out, and of each row no more than its
// bound says; with none, nothing, to the bit.
TEST_P(SkippingAttentionTest, LosesMoreWithTheThresholdButNoMoreThanAllowed) {
  for (const Expected& expected : Cases()) {
    SkippingRows rows({}, expected.kind, expected.rows);
    const auto dense = rows.Attend(backend(), 0);
    EXPECT_EQ(dense.skipped, 0);
    const auto never = rows.Attend(backend(), 1e-300);
    EXPECT_EQ(never.output, dense.output);
    EXPECT_EQ(never.lse, dense.lse);
    SkippingRows::Found before = dense;
    for (const double threshold : {1e-6, 1e-4, 1e-2, 0.1, 1.0}) {
      const auto found = rows.Attend(backend(), threshold);
      EXPECT_GE(found.skipped, before.skipped);
      const double most = std::log1p(kTokens * threshold) + 1e-4;
      for (size_t i = 0; i < found.lse.size(); ++i) {
        ASSERT_LE(found.lse[i], before.lse[i] + 1e-4);
        ASSERT_LE(dense.lse[i] - found.lse[i], most) << threshold;
      }
      before = found;
    }
    EXPECT_GT(before.skipped, 0);
  }
}

TEST_P(SkippingAttentionTest, RowsAreTheSameWhoeverSharesTheirWork) {
  const auto alone = CreateBackendUnderTest(GetParam(), /*threads=*/1);
  const auto shared = CreateBackendUnderTest(GetParam(), /*threads=*/3);
  for (const Expected& expected : Cases()) {
    SkippingRows rows({}, expected.kind, expected.rows);
    const auto wanted = rows.Attend(*alone, 0.1);
    const auto found = rows.Attend(*shared, 0.1);
    EXPECT_EQ(found.output, wanted.output);
    EXPECT_EQ(found.lse, wanted.lse);
    EXPECT_EQ(found.skipped, wanted.skipped);
  }
}

// What is no number is below nothing: its row fails as it would if nothing were
// left out.
TEST_P(SkippingAttentionTest, KeepsWhatIsNotANumber) {
  for (const Expected& expected : Cases()) {
    SkippingRows rows({}, expected.kind, expected.rows);
    // In a block that all rows leave out otherwise.
    rows.SetKey(kPageTokens + 5, std::numeric_limits<float>::quiet_NaN());
    const auto found = rows.Attend(backend(), 1);
    EXPECT_GT(found.skipped, 0);
    EXPECT_TRUE(std::isnan(found.output[0]));
  }
}

INSTANTIATE_TEST_SUITE_P(Paths, SkippingAttentionTest,
                         ::testing::ValuesIn(AttentionPathsToTest()),
                         [](const auto& path) { return path.param; });

}  // namespace
}  // namespace sparseserve
