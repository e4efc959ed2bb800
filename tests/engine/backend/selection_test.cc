#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <random>
#include <vector>

#include "engine/layout/layout_builder.h"
#include "engine/tensor/quant_blocks.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/engine/backend/backend_under_test.h"
#include "tests/testing/reference_attention.h"
#include "tests/testing/reference_selection.h"

namespace sparseserve {
namespace {

struct Shape {
  int heads = 0;
  int kv_heads = 0;
  int head_dim = 0;
  DType kv_dtype = DType::kF32;
};

constexpr Shape kModelShape = {9, 3, 64, DType::kF32};

// One sequence's rows of a batch: `rows` queries that end at position
// `length` - 1.
struct Slice {
  int length = 0;
  int rows = 0;
};

// A batch whose tiles all follow one rule. Queries and keys share a few
// directions, so that blocks differ in weight. KV memory that no position owns
// is NaN, as a reused page's might be.
class Batch {
 public:
  Batch(const Shape& shape, std::vector<Slice> slices, AntidiagonalRule rule,
        uint32_t seed)
      : shape_(shape),
        slices_(std::move(slices)),
        rules_({rule}),
        random_(seed),
        base_(shape.kv_heads),
        selected_(shape.kv_heads) {
    AllocatePages();
    FillKv();
    for (size_t s = 0; s < slices_.size(); ++s) AddTiles(s);
    selections_.resize(base_.layout().list_of.size(), {.rule = 0});
    const int64_t width =
        int64_t{shape_.heads + 2 * shape_.kv_heads} * shape_.head_dim;
    queries_.resize(rows_ * width);
    for (int64_t r = 0; r < rows_ * width; r += shape_.head_dim) {
      Draw(queries_.data() + r);
    }
    args_.queries = ConstMatrixView(queries_.data(), rows_, width);
    args_.heads = shape_.heads;
    args_.scale = 1.0f / std::sqrt(static_cast<float>(shape_.head_dim));
  }
  Batch(const Batch&) = delete;

  const SelectArgs& args() {
    spans_.assign(tables_.begin(), tables_.end());
    args_.pages = spans_;
    args_.kv = {.keys = keys_.data(),
                .values = values_.data(),
                .dtype = shape_.kv_dtype,
                .pages = static_cast<int32_t>(page_count_),
                .kv_heads = shape_.kv_heads,
                .head_dim = shape_.head_dim};
    args_.base = &base_.layout();
    args_.rules = rules_;
    args_.selections = selections_;
    args_.selected = &selected_;
    return args_;
  }

  void SoftCap(float cap) { args_.softcap = cap; }
  const BlockLayout& selected() const { return selected_.layout(); }
  HeadSelection& selection(size_t tile, int kv_head) {
    return selections_[tile * shape_.kv_heads + kv_head];
  }
  // Heads other than `selecting` follow a pattern of positions.
  void OnlyHeadSelects(int selecting, const KeyPredicate& others) {
    const std::vector<QueryTile> tiles = base_.layout().tiles;
    base_.Clear();
    for (size_t t = 0; t < tiles.size(); ++t) {
      base_.AddTile(tiles[t]);
      const int32_t all = base_.AddListOf({});
      const int32_t own = base_.AddListOf(others);
      for (int head = 0; head < shape_.kv_heads; ++head) {
        base_.Assign(head, head == selecting ? all : own);
        if (head != selecting) selection(t, head) = {};
      }
    }
  }
  std::vector<float>& queries() { return queries_; }

  // Blocks of a list, full and partial, ascending.
  static std::vector<int32_t> Blocks(const BlockLayout& layout, size_t tile,
                                     int kv_head) {
    const int32_t list = layout.list_of[tile * layout.kv_heads + kv_head];
    std::vector<int32_t> blocks(
        layout.full_blocks.begin() + layout.full_offsets[list],
        layout.full_blocks.begin() + layout.full_offsets[list + 1]);
    blocks.insert(
        blocks.end(),
        layout.partial_blocks.begin() + layout.partial_offsets[list],
        layout.partial_blocks.begin() + layout.partial_offsets[list + 1]);
    std::sort(blocks.begin(), blocks.end());
    return blocks;
  }

 private:
  void AllocatePages() {
    for (const Slice& slice : slices_) {
      page_count_ += (slice.length + kPageTokens - 1) / kPageTokens;
    }
    std::vector<PageId> shuffled(page_count_);
    std::iota(shuffled.begin(), shuffled.end(), 0);
    std::shuffle(shuffled.begin(), shuffled.end(), random_);
    auto next = shuffled.begin();
    for (const Slice& slice : slices_) {
      const int count = (slice.length + kPageTokens - 1) / kPageTokens;
      tables_.emplace_back(next, next + count);
      next += count;
    }
  }

  // One head's vector: noise, and often one of eight directions.
  void Draw(float* to) {
    std::normal_distribution<float> normal;
    for (int i = 0; i < shape_.head_dim; ++i) to[i] = 0.5f * normal(random_);
    const auto direction = random_() % 16;
    if (direction >= 8) return;
    std::mt19937 own(static_cast<uint32_t>(direction));
    for (int i = 0; i < shape_.head_dim; ++i) to[i] += 2.5f * normal(own);
  }

  void FillKv() {
    const int64_t elements =
        page_count_ * shape_.kv_heads * kPageTokens * shape_.head_dim;
    const int element_bytes = BlockBytes(shape_.kv_dtype);
    keys_.assign(elements * element_bytes, std::byte{0xFF});
    values_.assign(elements * element_bytes, std::byte{0xFF});
    std::vector<float> vector(shape_.head_dim);
    for (size_t s = 0; s < slices_.size(); ++s) {
      for (int position = 0; position < slices_[s].length; ++position) {
        const int64_t page = tables_[s][position / kPageTokens];
        for (int head = 0; head < shape_.kv_heads; ++head) {
          const int64_t first = ((page * shape_.kv_heads + head) * kPageTokens +
                                 position % kPageTokens) *
                                shape_.head_dim;
          Draw(vector.data());
          Store(vector, first, keys_);
          Draw(vector.data());
          Store(vector, first, values_);
        }
      }
    }
  }

  void Store(const std::vector<float>& vector, int64_t first,
             std::vector<std::byte>& to) const {
    for (size_t i = 0; i < vector.size(); ++i) {
      if (shape_.kv_dtype == DType::kBF16) {
        reinterpret_cast<uint16_t*>(to.data())[first + i] =
            FloatToBFloat16(vector[i]);
      } else {
        reinterpret_cast<float*>(to.data())[first + i] = vector[i];
      }
    }
  }

  void AddTiles(size_t slice) {
    int position = slices_[slice].length - slices_[slice].rows;
    while (position < slices_[slice].length) {
      QueryTile tile;
      tile.slice = static_cast<int32_t>(slice);
      tile.first_row = static_cast<int32_t>(rows_);
      tile.first_position = position;
      tile.rows = std::min(kPageTokens - position % kPageTokens,
                           slices_[slice].length - position);
      base_.AddTile(tile);
      const int32_t list =
          base_.AddList({{0, QueryBlock(tile, kPageTokens) + 1}});
      for (int head = 0; head < shape_.kv_heads; ++head) {
        base_.Assign(head, list);
      }
      rows_ += tile.rows;
      position += tile.rows;
    }
  }

  Shape shape_;
  std::vector<Slice> slices_;
  std::vector<SelectionRule> rules_;
  std::mt19937 random_;
  LayoutBuilder base_, selected_;
  int64_t page_count_ = 0;
  std::vector<std::vector<PageId>> tables_;
  std::vector<absl::Span<const PageId>> spans_;
  std::vector<std::byte> keys_, values_;
  std::vector<HeadSelection> selections_;
  std::vector<float> queries_;
  int64_t rows_ = 0;
  SelectArgs args_;
};

// Chosen and left blocks of the whole batch.
struct Tally {
  int chosen = 0;
  int left = 0;
  int different = 0;
};

// The engine's choice is the oracle's; where the two differ, the block's score
// is nearer to the score of the last one chosen than rounding can tell.
Tally ExpectEqualsReference(Batch& batch, const AntidiagonalRule& rule) {
  const SelectArgs& args = batch.args();
  EXPECT_EQ(batch.selected().Validate(), absl::OkStatus());
  Tally tally;
  for (size_t t = 0; t < args.base->tiles.size(); ++t) {
    for (int head = 0; head < args.kv.kv_heads; ++head) {
      const std::vector<double> scores = ReferenceAntidiagonalScores(
          args, args.base->tiles[t], head, rule.stride);
      const std::vector<bool> expected = ReferenceMassChoice(scores, rule.mass);
      const std::vector<int32_t> blocks =
          Batch::Blocks(batch.selected(), t, head);
      double cut = std::numeric_limits<double>::infinity();
      for (size_t b = 1; b + 1 < scores.size(); ++b) {
        if (expected[b]) cut = std::min(cut, scores[b]);
      }
      for (size_t b = 0; b < scores.size(); ++b) {
        const bool is_chosen =
            std::binary_search(blocks.begin(), blocks.end(), b);
        ++(is_chosen ? tally.chosen : tally.left);
        if (is_chosen == expected[b]) continue;
        ++tally.different;
        EXPECT_NEAR(scores[b], cut, 1e-5 * cut)
            << "tile " << t << ", head " << head << ", block " << b;
      }
    }
  }
  return tally;
}

// The blocks that the oracle chooses for a head of a tile.
std::vector<BlockRange> OracleRanges(const SelectArgs& args,
                                     const QueryTile& tile, int kv_head,
                                     const AntidiagonalRule& rule) {
  const std::vector<bool> chosen = ReferenceMassChoice(
      ReferenceAntidiagonalScores(args, tile, kv_head, rule.stride), rule.mass);
  std::vector<BlockRange> ranges;
  for (int32_t b = 0; b < static_cast<int32_t>(chosen.size()); ++b) {
    if (chosen[b]) ranges.push_back({b, b + 1});
  }
  return ranges;
}

// The worst error of attention over `layout` against the reference over
// `expected`, as share of the largest output.
double ErrorOfAttention(Backend& backend, const SelectArgs& args,
                        const BlockLayout& layout,
                        const BlockLayout& expected) {
  AttentionArgs attention;
  attention.queries = args.queries;
  attention.heads = args.heads;
  attention.kv = args.kv;
  attention.pages = args.pages;
  attention.scale = args.scale;
  attention.layout = &expected;
  const ReferenceAttentionResult reference = ReferenceAttention(attention);

  std::vector<float> output(reference.output.size());
  attention.layout = &layout;
  attention.output = {output.data(), args.queries.rows,
                      int64_t{args.heads} * args.kv.head_dim};
  backend.Attention(attention);
  double worst = 0;
  double largest = 0;
  for (size_t i = 0; i < output.size(); ++i) {
    const double error = std::abs(output[i] - reference.output[i]);
    if (!(error <= worst)) worst = std::isnan(error) ? HUGE_VAL : error;
    largest = std::max(largest, std::abs(reference.output[i]));
  }
  return worst / largest;
}

// A whole prompt, chunks that begin inside a block, and ends inside a group of
// every stride.
std::vector<Slice> MixedSlices() {
  return {{1, 1}, {333, 333}, {301, 70}, {500, 3}, {448, 128}};
}

using SelectionTest = BackendTest;

TEST_P(SelectionTest, ChoiceEqualsReferenceForEveryStride) {
  for (const int stride : {2, 4, 8, 16, 32, 64}) {
    SCOPED_TRACE(testing::Message() << "stride " << stride);
    const AntidiagonalRule rule = {stride, 0.6f};
    Batch batch(kModelShape, MixedSlices(), rule, stride);
    backend().Select(batch.args());
    const Tally tally = ExpectEqualsReference(batch, rule);
    EXPECT_GT(tally.left, 30);
    EXPECT_LE(tally.different, 1);
  }
}

TEST_P(SelectionTest, ChoiceEqualsReferenceForEveryShape) {
  for (const Shape& shape :
       {Shape{9, 3, 64, DType::kBF16}, Shape{2, 2, 128, DType::kF32},
        Shape{4, 1, 80, DType::kBF16}, Shape{6, 1, 8, DType::kF32},
        Shape{1, 1, 256, DType::kBF16}, Shape{4, 2, 24, DType::kF32}}) {
    SCOPED_TRACE(testing::Message()
                 << shape.heads << "/" << shape.kv_heads << "x"
                 << shape.head_dim << " of " << DTypeName(shape.kv_dtype));
    const AntidiagonalRule rule = {8, 0.5f};
    Batch batch(shape, MixedSlices(), rule, 5);
    batch.SoftCap(shape.heads == 4 ? 0.6f : 0.0f);
    backend().Select(batch.args());
    const Tally tally = ExpectEqualsReference(batch, rule);
    EXPECT_GT(tally.left, 10);
    EXPECT_LE(tally.different, 1);
  }
}

TEST_P(SelectionTest, AttentionOverTheChoiceEqualsReferenceOverTheOraclesSets) {
  const AntidiagonalRule rule = {8, 0.8f};
  Batch batch(kModelShape, MixedSlices(), rule, 11);
  const SelectArgs& args = batch.args();
  backend().Select(args);
  ASSERT_EQ(ExpectEqualsReference(batch, rule).different, 0);

  LayoutBuilder oracle(args.kv.kv_heads);
  for (const QueryTile& tile : args.base->tiles) {
    oracle.AddTile(tile);
    for (int head = 0; head < args.kv.kv_heads; ++head) {
      oracle.Assign(head, oracle.AddList(OracleRanges(args, tile, head, rule)));
    }
  }
  EXPECT_LT(
      ErrorOfAttention(backend(), args, batch.selected(), oracle.layout()),
      1e-5);
}

TEST_P(SelectionTest, HeadsWithARuleAndWithoutShareALayer) {
  const AntidiagonalRule rule = {8, 0.6f};
  const KeyPredicate strided = {StridedKeys{100}};
  Batch batch(kModelShape, MixedSlices(), rule, 12);
  batch.OnlyHeadSelects(1, strided);
  const SelectArgs& args = batch.args();
  backend().Select(args);
  EXPECT_EQ(batch.selected().Validate(), absl::OkStatus());

  LayoutBuilder oracle(args.kv.kv_heads);
  for (size_t t = 0; t < args.base->tiles.size(); ++t) {
    const QueryTile& tile = args.base->tiles[t];
    oracle.AddTile(tile);
    const int32_t own = oracle.AddListOf(strided);
    oracle.Assign(0, own);
    oracle.Assign(1, oracle.AddList(OracleRanges(args, tile, 1, rule)));
    oracle.Assign(2, own);
    for (int head = 0; head < 3; ++head) {
      EXPECT_EQ(Batch::Blocks(batch.selected(), t, head),
                Batch::Blocks(oracle.layout(), t, head));
    }
  }
  EXPECT_LT(
      ErrorOfAttention(backend(), args, batch.selected(), oracle.layout()),
      1e-5);
}

TEST_P(SelectionTest, TileChoosesTheSameAloneAndInABatch) {
  const AntidiagonalRule rule = {8, 0.8f};
  // Equal seeds draw equal pages, keys and queries up to the rows that differ.
  Batch whole(kModelShape, {{640, 640}}, rule, 3);
  Batch last(kModelShape, {{640, 64}}, rule, 3);
  std::copy(whole.queries().end() - static_cast<int64_t>(last.queries().size()),
            whole.queries().end(), last.queries().begin());
  backend().Select(whole.args());
  backend().Select(last.args());
  for (int head = 0; head < 3; ++head) {
    const std::vector<int32_t> alone = Batch::Blocks(last.selected(), 0, head);
    EXPECT_EQ(Batch::Blocks(whole.selected(), 9, head), alone);
    EXPECT_LT(alone.size(), 10);
  }
}

TEST_P(SelectionTest, TilesWithoutARuleKeepTheirLists) {
  Batch batch(kModelShape, {{320, 320}, {300, 1}}, {8, 0.5f}, 3);
  for (int head = 0; head < 3; ++head) {
    batch.selection(4, head) = {};
    batch.selection(5, head) = {.rule = 0, .first_layer = 1};
  }
  backend().Select(batch.args());
  const BlockLayout& base = *batch.args().base;
  for (int head = 0; head < 3; ++head) {
    EXPECT_LT(Batch::Blocks(batch.selected(), 3, head).size(), 4);
    for (const size_t tile : {4, 5}) {
      EXPECT_EQ(Batch::Blocks(batch.selected(), tile, head),
                Batch::Blocks(base, tile, head));
    }
  }
  EXPECT_EQ(batch.selected().Validate(), absl::OkStatus());
}

TEST_P(SelectionTest,
       NotANumberInOneSequenceChoosesAllThereAndNothingElsewhere) {
  Batch clean(kModelShape, {{320, 64}, {320, 64}}, {8, 0.6f}, 9);
  Batch poisoned(kModelShape, {{320, 64}, {320, 64}}, {8, 0.6f}, 9);
  std::fill(poisoned.queries().begin(),
            poisoned.queries().begin() +
                static_cast<int64_t>(poisoned.queries().size()) / 2,
            std::numeric_limits<float>::quiet_NaN());
  backend().Select(clean.args());
  backend().Select(poisoned.args());
  for (int head = 0; head < 3; ++head) {
    EXPECT_EQ(Batch::Blocks(poisoned.selected(), 0, head).size(), 5);
    EXPECT_EQ(Batch::Blocks(poisoned.selected(), 1, head),
              Batch::Blocks(clean.selected(), 1, head));
  }
}

INSTANTIATE_TEST_SUITE_P(Paths, SelectionTest,
                         testing::ValuesIn(AvailableSimdPaths()),
                         [](const auto& path) { return path.param; });

}  // namespace
}  // namespace sparseserve
