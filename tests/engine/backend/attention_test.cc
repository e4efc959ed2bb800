#include <algorithm>
#include <cmath>
#include <iterator>
#include <limits>
#include <numeric>
#include <random>
#include <vector>

#include "engine/layout/layout_builder.h"
#include "engine/tensor/quant_blocks.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/engine/backend/backend_under_test.h"
#include "tests/testing/normal_draws.h"
#include "tests/testing/reference_attention.h"

namespace sparseserve {
namespace {

struct Shape {
  int heads = 0;
  int kv_heads = 0;
  int head_dim = 0;
  DType kv_dtype = DType::kF32;
};

// One sequence's rows of a batch: `rows` queries that end at position
// `length` - 1.
struct Slice {
  int length = 0;
  int rows = 0;
};

// How a batch's rows are asked for.
enum class Rows {
  kExact,    // prefill rows of which nothing is rounded
  kDecode,   // decode rows, nothing rounded
  kRounded,  // prefill rows with queries that are bf16 already, over bf16 KV
};

// A batch with random contents. KV memory that no position of any slice owns
// is NaN, as a reused page's might be.
class Batch {
 public:
  Batch(Rows kind, const Shape& shape, std::vector<Slice> slices, uint32_t seed)
      : kind_(kind), shape_(shape), slices_(std::move(slices)), random_(seed) {
    if (kind == Rows::kRounded) shape_.kv_dtype = DType::kBF16;
    AllocatePages();
    FillKv();
    layout_.kv_heads = shape_.kv_heads;
    for (size_t s = 0; s < slices_.size(); ++s) AddTiles(s);
    const int width = (shape_.heads + 2 * shape_.kv_heads) * shape_.head_dim;
    queries_ = RandomFloats(rows_ * width, 1.0f);
    args_.queries = ConstMatrixView(queries_.data(), rows_, width);
    args_.heads = shape_.heads;
    args_.scale = 1.0f / std::sqrt(static_cast<float>(shape_.head_dim));
    output_.assign(rows_ * shape_.heads * shape_.head_dim,
                   std::numeric_limits<float>::quiet_NaN());
    lse_.assign(rows_ * shape_.heads, std::numeric_limits<float>::quiet_NaN());
    args_.output = {output_.data(), rows_, shape_.heads * shape_.head_dim};
    args_.lse = lse_.data();
    if (kind == Rows::kRounded) args_.groups.prefill_rows = rows_;
    if (kind == Rows::kDecode) args_.groups.decode_rows = rows_;
  }

  // Every (tile, KV head) gets every block that causality allows.
  Batch& Dense() {
    return Select([](int) { return true; });
  }

  // Every (tile, KV head) gets its own random subset of the allowed blocks.
  Batch& Sparse() {
    return Select([this](int) { return random_() % 3 == 0; });
  }

  // Keeps the blocks for which `keep` says so; a list left empty gets block 0.
  template <typename Keep>
  Batch& Select(const Keep& keep) {
    for (const QueryTile& tile : layout_.tiles) {
      for (int head = 0; head < shape_.kv_heads; ++head) {
        layout_.list_of.push_back(layout_.lists());
        const int last = (tile.first_position + tile.rows - 1) / kPageTokens;
        bool is_empty = true;
        for (int block = 0; block <= last; ++block) {
          if (!keep(block) && !(is_empty && block == last)) continue;
          is_empty = false;
          const bool is_full = (block + 1) * kPageTokens <= tile.first_position;
          (is_full ? layout_.full_blocks : layout_.partial_blocks)
              .push_back(block);
        }
        layout_.full_offsets.push_back(layout_.full_blocks.size());
        layout_.partial_offsets.push_back(layout_.partial_blocks.size());
      }
    }
    EXPECT_EQ(layout_.Validate(), absl::OkStatus());
    return *this;
  }

  // Every (tile, KV head) gets the blocks that its window reaches; windows of
  // odd heads are one token narrower.
  Batch& Windowed(int window_tokens) {
    LayoutBuilder builder(shape_.kv_heads);
    for (const QueryTile& tile : layout_.tiles) {
      builder.AddTile(tile);
      for (int head = 0; head < shape_.kv_heads; ++head) {
        const int window = std::max(window_tokens - head % 2, 1);
        builder.Assign(head, builder.AddListOf({.window_tokens = window}));
      }
    }
    layout_ = builder.layout();
    EXPECT_EQ(layout_.Validate(), absl::OkStatus());
    return *this;
  }

  // Every (tile, KV head) gets the list of a rule, heads in turn.
  Batch& Ruled(const std::vector<KeyPredicate>& predicates) {
    LayoutBuilder builder(shape_.kv_heads);
    for (const QueryTile& tile : layout_.tiles) {
      builder.AddTile(tile);
      for (int head = 0; head < shape_.kv_heads; ++head) {
        builder.Assign(head,
                       builder.AddListOf(predicates[head % predicates.size()]));
      }
    }
    layout_ = builder.layout();
    EXPECT_EQ(layout_.Validate(), absl::OkStatus());
    return *this;
  }

  Batch& SoftCapped(float softcap) {
    args_.softcap = softcap;
    return *this;
  }

  // Every list is this one partial block, allowed or not.
  Batch& OnlyBlock(int block) {
    layout_.list_of.assign(layout_.tiles.size() * shape_.kv_heads, 0);
    layout_.full_offsets = {0, 0};
    layout_.partial_offsets = {0, 1};
    layout_.partial_blocks = {block};
    return *this;
  }

  const AttentionArgs& args() {
    if (kind_ == Rows::kRounded) {
      for (float& query : queries_) {
        query = BFloat16ToFloat(FloatToBFloat16(query));
      }
    }
    pages_.assign(page_tables_.begin(), page_tables_.end());
    args_.pages = pages_;
    args_.layout = &layout_;
    args_.kv = {.keys = keys_.data(),
                .values = values_.data(),
                .dtype = shape_.kv_dtype,
                .pages = static_cast<int32_t>(page_count_),
                .kv_heads = shape_.kv_heads,
                .head_dim = shape_.head_dim};
    return args_;
  }

  const std::vector<float>& output() const { return output_; }
  const std::vector<float>& lse() const { return lse_; }
  std::vector<float>& queries() { return queries_; }
  // Outputs of one slice's rows.
  std::vector<float> OutputOf(size_t slice) const {
    int64_t first = 0;
    for (size_t s = 0; s < slice; ++s) first += slices_[s].rows;
    const int64_t width = shape_.heads * shape_.head_dim;
    return std::vector<float>(
        output_.begin() + first * width,
        output_.begin() + (first + slices_[slice].rows) * width);
  }

  Rows kind() const { return kind_; }

  // Of every output, what its row's weights would give with the values' sizes.
  // REQUIRES: KV in bf16.
  std::vector<double> WeightedSizes() {
    AttentionArgs sizes = args();
    std::vector<std::byte> values = values_;
    for (size_t i = 1; i < values.size(); i += 2) values[i] &= std::byte{0x7F};
    sizes.kv.values = values.data();
    return ReferenceAttention(sizes).output;
  }

  void Poison(size_t slice) {
    for (int position = 0; position < slices_[slice].length; ++position) {
      Write(slice, position,
            [] { return std::numeric_limits<float>::quiet_NaN(); });
    }
  }

 private:
  std::vector<float> RandomFloats(int64_t count, float deviation) {
    NormalDraws draws(random_());
    std::vector<float> floats(count);
    for (float& value : floats) value = deviation * draws();
    return floats;
  }

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
      page_tables_.emplace_back(next, next + count);
      next += count;
    }
  }

  void FillKv() {
    const int64_t elements =
        page_count_ * shape_.kv_heads * kPageTokens * shape_.head_dim;
    const int element_bytes = BlockBytes(shape_.kv_dtype);
    keys_.assign(elements * element_bytes, std::byte{0xFF});
    values_.assign(elements * element_bytes, std::byte{0xFF});
    NormalDraws draws(random_());
    for (size_t s = 0; s < slices_.size(); ++s) {
      for (int position = 0; position < slices_[s].length; ++position) {
        Write(s, position, draws);
      }
    }
  }

  template <typename Draw>
  void Write(size_t slice, int position, Draw&& draw) {
    const int64_t page = page_tables_[slice][position / kPageTokens];
    for (int head = 0; head < shape_.kv_heads; ++head) {
      const int64_t first = ((page * shape_.kv_heads + head) * kPageTokens +
                             position % kPageTokens) *
                            shape_.head_dim;
      for (int i = 0; i < shape_.head_dim; ++i) {
        Store(draw(), first + i, keys_);
        Store(draw(), first + i, values_);
      }
    }
  }

  void Store(float value, int64_t index, std::vector<std::byte>& to) {
    if (shape_.kv_dtype == DType::kBF16) {
      reinterpret_cast<uint16_t*>(to.data())[index] = FloatToBFloat16(value);
    } else {
      reinterpret_cast<float*>(to.data())[index] = value;
    }
  }

  void AddTiles(size_t slice) {
    int position = slices_[slice].length - slices_[slice].rows;
    int left = slices_[slice].rows;
    while (left > 0) {
      const int rows = std::min(left, kPageTokens - position % kPageTokens);
      layout_.tiles.push_back({.slice = static_cast<int32_t>(slice),
                               .first_row = static_cast<int32_t>(rows_),
                               .rows = rows,
                               .first_position = position});
      rows_ += rows;
      position += rows;
      left -= rows;
    }
  }

  const Rows kind_;
  Shape shape_;
  const std::vector<Slice> slices_;
  std::mt19937 random_;
  int64_t page_count_ = 0;
  std::vector<std::vector<PageId>> page_tables_;
  std::vector<absl::Span<const PageId>> pages_;
  std::vector<std::byte> keys_, values_;
  std::vector<float> queries_, output_, lse_;
  int64_t rows_ = 0;
  BlockLayout layout_;
  AttentionArgs args_;
};

// The path "avx512_amx" rounds prefill rows, the others nothing.
class AttentionTest : public BackendTest {
 protected:
  Batch MakeBatch(const Shape& shape, std::vector<Slice> slices,
                  uint32_t seed) const {
    const bool is_rounded = GetParam() == kAmxPath;
    return Batch(is_rounded ? Rows::kRounded : Rows::kExact, shape,
                 std::move(slices), seed);
  }
};

// What each output may be off.
std::vector<double> Tolerances(Batch& batch, size_t outputs) {
  if (batch.kind() != Rows::kRounded) {
    // Both read the same stored KV, so its dtype adds no error.
    return std::vector<double>(outputs, 1e-5);
  }
  // Weights are rounded to 8 bits.
  std::vector<double> tolerances = batch.WeightedSizes();
  for (double& tolerance : tolerances) tolerance = tolerance / 256 + 1e-5;
  return tolerances;
}

// `last` is a slice of `many`'s length and seed with its last row alone. Equal
// seeds draw equal pages and KV; the last query is copied over.
void ExpectLastRowIsTheSameAlone(Backend& backend, Batch& many, Batch& last) {
  const int64_t width = last.args().queries.columns;
  std::copy(many.queries().end() - width, many.queries().end(),
            last.queries().begin());
  backend.Attention(many.Dense().args());
  backend.Attention(last.Dense().args());
  const std::vector<float> all = many.output();
  ASSERT_FALSE(last.output().empty());
  EXPECT_EQ(
      std::vector<float>(all.end() - std::ssize(last.output()), all.end()),
      last.output());
}

void ExpectEqualsReference(Backend& backend, Batch& batch) {
  const ReferenceAttentionResult expected = ReferenceAttention(batch.args());
  backend.Attention(batch.args());
  ASSERT_EQ(batch.output().size(), expected.output.size());
  const std::vector<double> tolerances =
      Tolerances(batch, expected.output.size());
  double worst = 0;
  for (size_t i = 0; i < expected.output.size(); ++i) {
    const double error =
        std::abs(batch.output()[i] - expected.output[i]) / tolerances[i];
    if (!(error <= worst)) worst = std::isnan(error) ? HUGE_VAL : error;
  }
  EXPECT_LT(worst, 1);
  ASSERT_EQ(batch.lse().size(), expected.lse.size());
  for (size_t i = 0; i < expected.lse.size(); ++i) {
    if (std::isinf(expected.lse[i])) {
      ASSERT_EQ(batch.lse()[i], expected.lse[i]) << i;
    } else {
      ASSERT_NEAR(batch.lse()[i], expected.lse[i], 1e-5) << i;
    }
  }
}

constexpr Shape kModelShape = {9, 3, 64, DType::kF32};
// Groups of 1, 3, 4, 6 and 1; head dims that fill vectors and that do not.
constexpr Shape kShapes[] = {
    {9, 3, 64, DType::kBF16},  {2, 2, 128, DType::kF32},
    {2, 2, 128, DType::kBF16}, {4, 1, 80, DType::kF32},
    {4, 1, 80, DType::kBF16},  {6, 1, 8, DType::kF32},
    {1, 1, 256, DType::kBF16}, {4, 2, 24, DType::kF32},
    {4, 2, 24, DType::kBF16},  {6, 2, 40, DType::kF32},
    {2, 1, 72, DType::kBF16}};

testing::Message Named(const Shape& shape) {
  return testing::Message()
         << shape.heads << "/" << shape.kv_heads << "x" << shape.head_dim
         << " of " << DTypeName(shape.kv_dtype);
}

TEST_P(AttentionTest, DenseEqualsReferenceAtEveryLength) {
  for (const int length : {1, 15, 63, 64, 65, 300}) {
    SCOPED_TRACE(testing::Message() << "length " << length);
    Batch batch = MakeBatch(kModelShape, {{length, length}}, length);
    ExpectEqualsReference(backend(), batch.Dense());
  }
}

TEST_P(AttentionTest, DenseEqualsReferenceForEveryShape) {
  for (const Shape& shape : kShapes) {
    SCOPED_TRACE(Named(shape));
    Batch batch = MakeBatch(shape, {{131, 131}}, 1);
    ExpectEqualsReference(backend(), batch.Dense());
  }
}

// Decodes, a whole prompt, and chunks that begin inside a block.
std::vector<Slice> MixedSlices() {
  return {{1, 1}, {64, 1}, {333, 1}, {129, 129}, {300, 70}, {500, 3}};
}

TEST_P(AttentionTest, SparseMixedBatchEqualsReference) {
  for (const uint32_t seed : {1, 2, 3}) {
    Batch batch = MakeBatch(kModelShape, MixedSlices(), seed);
    ExpectEqualsReference(backend(), batch.Sparse());
  }
}

TEST_P(AttentionTest, SparseMixedBatchEqualsReferenceForEveryShape) {
  for (const Shape& shape : kShapes) {
    SCOPED_TRACE(Named(shape));
    Batch batch = MakeBatch(shape, MixedSlices(), 4);
    ExpectEqualsReference(backend(), batch.Sparse());
  }
}

TEST_P(AttentionTest, WindowsEqualReferenceAtEveryEdge) {
  for (const int window : {1, 2, 15, 63, 64, 65, 70, 128, 129, 400, 1 << 30}) {
    SCOPED_TRACE(testing::Message() << "window " << window);
    Batch batch = MakeBatch(kModelShape, MixedSlices(), window);
    ExpectEqualsReference(backend(), batch.Windowed(window));
  }
}

TEST_P(AttentionTest, WindowsEqualReferenceForEveryShape) {
  for (const Shape& shape : kShapes) {
    SCOPED_TRACE(Named(shape));
    Batch batch = MakeBatch(shape, MixedSlices(), 6);
    ExpectEqualsReference(backend(), batch.Windowed(70));
  }
}

// Every rule, with and without a window; some hide whole rows of a block.
std::vector<KeyPredicate> Predicates() {
  std::vector<KeyPredicate> predicates;
  for (const KeyRule& rule :
       {KeyRule(SinkWindowKeys{5, 70}), KeyRule(StridedKeys{37}),
        KeyRule(StridedKeys{128}), KeyRule(ColumnKeys{100, 90, 10}),
        KeyRule(ColumnKeys{50, 3, 2, false}), KeyRule(DilatedKeys{3, 60}),
        KeyRule(DilatedKeys{90, 4}), KeyRule(ChunkKeys{100})}) {
    predicates.push_back({rule});
    predicates.push_back({rule, 111});
  }
  return predicates;
}

TEST_P(AttentionTest, EveryPredicateEqualsReference) {
  for (const KeyPredicate& predicate : Predicates()) {
    SCOPED_TRACE(testing::Message() << "rule " << predicate.rule.index());
    Batch batch = MakeBatch(kModelShape, MixedSlices(), 9);
    ExpectEqualsReference(backend(), batch.Ruled({predicate}));
  }
}

TEST_P(AttentionTest, HeadsOfDifferentPredicatesEqualReferenceForEveryShape) {
  for (const Shape& shape : kShapes) {
    SCOPED_TRACE(Named(shape));
    Batch batch = MakeBatch(shape, MixedSlices(), 10);
    ExpectEqualsReference(
        backend(),
        batch.Ruled({{StridedKeys{37}}, {ColumnKeys{100, 90, 10}, 170}}));
    Batch capped = MakeBatch(shape, {{1300, 3}, {129, 129}}, 11);
    ExpectEqualsReference(
        backend(), capped.Ruled({{DilatedKeys{7, 90}}, {}}).SoftCapped(0.7f));
  }
}

TEST_P(AttentionTest, RowOfAPredicateIsTheSameAloneAndInABatch) {
  for (const KeyPredicate& predicate : Predicates()) {
    SCOPED_TRACE(testing::Message() << "rule " << predicate.rule.index());
    Batch whole = MakeBatch(kModelShape, {{750, 100}}, 7);
    Batch last = MakeBatch(kModelShape, {{750, 1}}, 7);
    const int64_t width = last.args().queries.columns;
    std::copy(whole.queries().end() - width, whole.queries().end(),
              last.queries().begin());
    backend().Attention(whole.Ruled({predicate}).args());
    backend().Attention(last.Ruled({predicate}).args());
    const std::vector<float> all = whole.output();
    EXPECT_EQ(std::vector<float>(all.end() - 9 * 64, all.end()), last.output());
  }
}

// The masks of partial blocks, where they hide nothing.
TEST_P(AttentionTest, PredicateThatShowsAllIsDenseToTheBit) {
  Batch dense = MakeBatch(kModelShape, MixedSlices(), 12);
  Batch shown = MakeBatch(kModelShape, MixedSlices(), 12);
  backend().Attention(dense.Dense().args());
  backend().Attention(shown
                          .Ruled({{SinkWindowKeys{1000, 1}},
                                  {ColumnKeys{1000, 0, 999}},
                                  {DilatedKeys{1, 1000}}})
                          .args());
  EXPECT_EQ(shown.output(), dense.output());
  EXPECT_EQ(shown.lse(), dense.lse());
}

TEST_P(AttentionTest, SoftCappedScoresEqualReference) {
  for (const Shape& shape : kShapes) {
    SCOPED_TRACE(Named(shape));
    // Scores have a deviation of 1.
    Batch batch = MakeBatch(shape, MixedSlices(), 8);
    ExpectEqualsReference(backend(), batch.Windowed(100).SoftCapped(0.7f));
  }
}

TEST_P(AttentionTest, RowOfAWindowIsTheSameAloneAndInABatch) {
  // Alone, the row's list begins where its own window does; in the batch, where
  // that of the tile's first row does.
  Batch whole = MakeBatch(kModelShape, {{250, 250}}, 7);
  Batch last = MakeBatch(kModelShape, {{250, 1}}, 7);
  const int64_t width = last.args().queries.columns;
  std::copy(whole.queries().end() - width, whole.queries().end(),
            last.queries().begin());
  backend().Attention(whole.Windowed(58).args());
  backend().Attention(last.Windowed(58).args());
  const std::vector<float> all = whole.output();
  EXPECT_EQ(std::vector<float>(all.end() - 9 * 64, all.end()), last.output());
}

TEST_P(AttentionTest, GroupLargerThanOnePassEqualsReference) {
  Batch batch = MakeBatch({12, 1, 16, DType::kF32}, {{200, 200}}, 5);
  ExpectEqualsReference(backend(), batch.Dense());
}

TEST_P(AttentionTest, RowIsTheSameAloneAndInABatch) {
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    const Shape shape = {9, 3, 64, dtype};
    // The same 150 positions: all at once, and the last one alone.
    Batch whole = MakeBatch(shape, {{150, 150}}, 7);
    Batch last = MakeBatch(shape, {{150, 1}}, 7);
    ExpectLastRowIsTheSameAlone(backend(), whole, last);
  }
}

// Long enough for several stretches, which workers share for a row alone and
// do not for many rows.
TEST_P(AttentionTest, RowOfALongContextIsTheSameAloneAndInABatch) {
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    const Shape shape = {9, 3, 64, dtype};
    Batch many = MakeBatch(shape, {{1300, 60}}, 7);
    Batch last = MakeBatch(shape, {{1300, 1}}, 7);
    ExpectLastRowIsTheSameAlone(backend(), many, last);
  }
}

TEST_P(AttentionTest, SeveralStretchesEqualReference) {
  for (const Shape& shape : kShapes) {
    SCOPED_TRACE(Named(shape));
    for (const int length : {512, 513, 1300}) {
      Batch one = MakeBatch(shape, {{length, 1}}, length);
      ExpectEqualsReference(backend(), one.Dense());
      Batch sparse = MakeBatch(shape, {{length, 3}, {900, 1}}, length);
      ExpectEqualsReference(backend(), sparse.Sparse());
      Batch window = MakeBatch(shape, {{length, 2}}, length);
      ExpectEqualsReference(backend(), window.Windowed(100));
    }
  }
}

TEST_P(AttentionTest, NanInALongContextStaysThere) {
  Batch batch = MakeBatch(kModelShape, {{1300, 1}, {1300, 1}}, 3);
  batch.Poison(1);
  backend().Attention(batch.Dense().args());
  EXPECT_THAT(batch.OutputOf(0), testing::Each(testing::Not(testing::IsNan())));
  EXPECT_THAT(batch.OutputOf(1), testing::Each(testing::IsNan()));
}

TEST_P(AttentionTest, RowWithoutVisibleKeysIsZeroWithMinusInfinity) {
  // No valid layout has such rows: the first tile is pointed at the block
  // behind it.
  Batch batch = MakeBatch({3, 1, 64, DType::kF32}, {{128, 128}}, 11);
  ExpectEqualsReference(backend(), batch.OnlyBlock(1));
  EXPECT_THAT(std::vector<float>(batch.lse().begin(), batch.lse().begin() + 3),
              testing::Each(-std::numeric_limits<float>::infinity()));
  EXPECT_THAT(
      std::vector<float>(batch.output().begin(), batch.output().begin() + 64),
      testing::Each(0.0f));
}

TEST_P(AttentionTest, NanInOneSequenceStaysThere) {
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    const Shape shape = {9, 3, 64, dtype};
    const std::vector<Slice> slices = {{70, 1}, {90, 90}, {200, 33}};
    Batch clean = MakeBatch(shape, slices, 3);
    Batch poisoned = MakeBatch(shape, slices, 3);
    poisoned.Poison(1);
    backend().Attention(clean.Dense().args());
    backend().Attention(poisoned.Dense().args());
    EXPECT_EQ(clean.OutputOf(0), poisoned.OutputOf(0));
    EXPECT_EQ(clean.OutputOf(2), poisoned.OutputOf(2));
    EXPECT_THAT(poisoned.OutputOf(1), testing::Each(testing::IsNan()));
  }
}

TEST_P(AttentionTest, LargeScoresDoNotOverflow) {
  for (const float size : {1e3f, 1e6f, 1e10f, 1e30f}) {
    SCOPED_TRACE(testing::Message() << "queries x " << size);
    Batch batch = MakeBatch({2, 1, 64, DType::kF32}, {{130, 130}}, 13);
    for (float& query : batch.queries()) query *= size;
    const ReferenceAttentionResult expected =
        ReferenceAttention(batch.Dense().args());
    backend().Attention(batch.args());
    for (size_t i = 0; i < expected.lse.size(); ++i) {
      ASSERT_NEAR(batch.lse()[i] / expected.lse[i], 1, 1e-5);
    }
    // From 1e6 on the greatest score has all the weight.
    if (size < 1e5f) continue;
    for (size_t i = 0; i < expected.output.size(); ++i) {
      ASSERT_NEAR(batch.output()[i], expected.output[i], 1e-2) << i;
    }
  }
}

// The first row's only key, of which q * k is beyond float's range.
TEST_P(AttentionTest, ScoresThatOverflowAreNotTakenForHiddenKeys) {
  Batch batch = MakeBatch({2, 1, 64, DType::kF32}, {{70, 70}}, 13);
  for (float& query : batch.queries()) query *= 1e38f;
  backend().Attention(batch.Dense().args());
  for (const float value : batch.output()) {
    ASSERT_TRUE(std::isnan(value) || std::abs(value) > 0) << value;
  }
}

TEST_P(AttentionTest, DecodeRowsEqualReference) {
  const std::vector<Slice> slices = {{1, 1},  {2, 1},   {63, 1}, {64, 1},
                                     {65, 1}, {300, 1}, {700, 1}};
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    for (const Shape& shape : {Shape{4, 4, 64, dtype}, Shape{9, 3, 64, dtype},
                               Shape{8, 1, 128, dtype}, Shape{14, 2, 32, dtype},
                               Shape{5, 1, 80, dtype}, Shape{2, 1, 8, dtype}}) {
      SCOPED_TRACE(testing::Message()
                   << shape.heads << " heads, " << shape.head_dim
                   << " elements, " << DTypeName(dtype));
      Batch dense(Rows::kDecode, shape, slices, 21);
      ExpectEqualsReference(backend(), dense.Dense());
      Batch sparse(Rows::kDecode, shape, slices, 22);
      ExpectEqualsReference(backend(), sparse.Sparse());
    }
  }
}

TEST_P(AttentionTest, DecodeRowOfALongContextIsTheSameAloneAndInABatch) {
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    const Shape shape = {9, 3, 64, dtype};
    Batch many(Rows::kDecode, shape, {{1300, 40}}, 7);
    Batch last(Rows::kDecode, shape, {{1300, 1}}, 7);
    ExpectLastRowIsTheSameAlone(backend(), many, last);
  }
}

TEST_P(AttentionTest, DecodeRowsBesidePrefillRowsAreExact) {
  const std::vector<Slice> slices = {{70, 1}, {300, 1}, {200, 200}};
  Batch decode(Rows::kDecode, {9, 3, 64, DType::kBF16}, slices, 3);
  ExpectEqualsReference(backend(), decode.Dense());
  Batch exact(Rows::kExact, {9, 3, 64, DType::kBF16}, slices, 3);
  backend().Attention(exact.Dense().args());
  Batch mixed(Rows::kExact, {9, 3, 64, DType::kBF16}, slices, 3);
  AttentionArgs args = mixed.Dense().args();
  args.groups = {.decode_rows = 2, .prefill_rows = 200};
  backend().Attention(args);
  EXPECT_EQ(mixed.OutputOf(0), decode.OutputOf(0));
  EXPECT_EQ(mixed.OutputOf(1), decode.OutputOf(1));
  const bool is_rounded = GetParam() == kAmxPath;
  EXPECT_EQ(mixed.OutputOf(2) != exact.OutputOf(2), is_rounded);
}

INSTANTIATE_TEST_SUITE_P(Paths, AttentionTest,
                         testing::ValuesIn(AttentionPathsToTest()),
                         [](const auto& path) { return path.param; });

}  // namespace
}  // namespace sparseserve
