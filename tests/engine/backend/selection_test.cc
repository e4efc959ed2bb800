#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "engine/layout/layout_builder.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/engine/backend/backend_under_test.h"
#include "tests/engine/backend/selection_batch.h"
#include "tests/testing/oracle_report.h"
#include "tests/testing/reference_attention.h"
#include "tests/testing/reference_selection.h"

namespace sparseserve {
namespace {

using Batch = SelectionBatch;

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
  attention.groups.prefill_rows = args.queries.rows;
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

class SelectionTest : public BackendTest {
 protected:
  // What multiplies on tiles has keys of bf16.
  bool rounds() const { return GetParam() == kAmxPath; }
  Batch::Shape model_shape() const {
    return {9, 3, 64, rounds() ? DType::kBF16 : DType::kF32};
  }
  // Of attention's output.
  double largest_error() const { return rounds() ? 2e-2 : 1e-5; }
  // Over what the batch chose, against the reference over the oracle's lists.
  void ExpectAttentionOver(const char* system, Batch& batch,
                           const BlockLayout& expected) {
    testing::OracleReport report(system, rounds() ? "bf16" : "f32");
    const double error =
        ErrorOfAttention(backend(), batch.args(), batch.selected(), expected);
    EXPECT_LT(error, largest_error());
    report.AddCase();
    report.AddRows(batch.args().queries.rows * batch.args().heads, error);
  }
};

TEST_P(SelectionTest, ChoiceEqualsReferenceForEveryStride) {
  for (const int stride : {2, 4, 8, 16, 32, 64}) {
    SCOPED_TRACE(::testing::Message() << "stride " << stride);
    const AntidiagonalRule rule = {stride, 0.6f};
    Batch batch(model_shape(), Batch::MixedSlices(), rule, stride);
    backend().Select(batch.args());
    const Tally tally = ExpectEqualsReference(batch, rule);
    EXPECT_GT(tally.left, 30);
    EXPECT_LE(tally.different, 1);
  }
}

TEST_P(SelectionTest, ChoiceEqualsReferenceForEveryShape) {
  for (const Batch::Shape& shape : {Batch::Shape{9, 3, 64, DType::kBF16},
                                    Batch::Shape{2, 2, 128, DType::kF32},
                                    Batch::Shape{4, 1, 80, DType::kBF16},
                                    Batch::Shape{6, 1, 8, DType::kF32},
                                    Batch::Shape{1, 1, 256, DType::kBF16},
                                    Batch::Shape{4, 2, 24, DType::kF32}}) {
    SCOPED_TRACE(::testing::Message()
                 << shape.heads << "/" << shape.kv_heads << "x"
                 << shape.head_dim << " of " << DTypeName(shape.kv_dtype));
    const AntidiagonalRule rule = {8, 0.5f};
    Batch batch(shape, Batch::MixedSlices(), rule, 5);
    batch.SoftCap(shape.heads == 4 ? 0.6f : 0.0f);
    backend().Select(batch.args());
    const Tally tally = ExpectEqualsReference(batch, rule);
    EXPECT_GT(tally.left, 10);
    EXPECT_LE(tally.different, 1);
  }
}

TEST_P(SelectionTest, AttentionOverTheChoiceEqualsReferenceOverTheOraclesSets) {
  const AntidiagonalRule rule = {8, 0.8f};
  Batch batch(model_shape(), Batch::MixedSlices(), rule, 11);
  const SelectArgs& args = batch.args();
  backend().Select(args);
  const Tally tally = ExpectEqualsReference(batch, rule);
  ASSERT_EQ(tally.different, 0);
  testing::OracleReport sets("xattention", "sets");
  sets.AddCase();
  sets.AddRows(tally.chosen + tally.left, 0);

  LayoutBuilder oracle(args.kv.kv_heads);
  for (const QueryTile& tile : args.base->tiles) {
    oracle.AddTile(tile);
    for (int head = 0; head < args.kv.kv_heads; ++head) {
      oracle.Assign(head, oracle.AddList(OracleRanges(args, tile, head, rule)));
    }
  }
  ExpectAttentionOver("xattention", batch, oracle.layout());
}

// A head takes the list that it is given and changes nothing of the others'.
TEST_P(SelectionTest, KeptListsStandInPlaceOfAChoice) {
  const AntidiagonalRule rule = {8, 0.6f};
  Batch batch(model_shape(), {{500, 3}, {448, 128}}, rule, 13);
  SelectArgs args = batch.args();
  backend().Select(args);
  const BlockLayout chosen = batch.selected();
  const std::vector<BlockRange> list = {{0, 1}, {2, 3}, {7, 8}};
  std::vector<absl::Span<const BlockRange>> kept(chosen.list_of.size());
  kept[1] = list;  // of tile 0 in block 7, head 1
  args.kept = kept;
  backend().Select(args);
  EXPECT_EQ(batch.selected().Validate(), absl::OkStatus());
  for (size_t t = 0; t < chosen.tiles.size(); ++t) {
    for (int head = 0; head < 3; ++head) {
      EXPECT_EQ(Batch::Blocks(batch.selected(), t, head),
                t == 0 && head == 1 ? (std::vector<int32_t>{0, 2, 7})
                                    : Batch::Blocks(chosen, t, head));
    }
  }
  EXPECT_NE(Batch::Blocks(chosen, 0, 1), (std::vector<int32_t>{0, 2, 7}));

  testing::OracleReport sets("reuse", "sets");
  sets.AddCase();
  LayoutBuilder oracle(3);
  for (size_t t = 0; t < chosen.tiles.size(); ++t) {
    oracle.AddTile(chosen.tiles[t]);
    for (int head = 0; head < 3; ++head) {
      sets.AddRow();
      oracle.Assign(
          head, oracle.AddList(t == 0 && head == 1
                                   ? list
                                   : OracleRanges(batch.args(), chosen.tiles[t],
                                                  head, rule)));
    }
  }
  ExpectAttentionOver("reuse", batch, oracle.layout());
}

TEST_P(SelectionTest, HeadsWithARuleAndWithoutShareALayer) {
  const AntidiagonalRule rule = {8, 0.6f};
  const KeyPredicate strided = {StridedKeys{100}};
  Batch batch(model_shape(), Batch::MixedSlices(), rule, 12);
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
      largest_error());
}

TEST_P(SelectionTest, TileChoosesTheSameAloneAndInABatch) {
  const AntidiagonalRule rule = {8, 0.8f};
  // Equal seeds draw equal pages, keys and queries up to the rows that differ.
  Batch whole(model_shape(), {{640, 640}}, rule, 3);
  Batch last(model_shape(), {{640, 64}}, rule, 3);
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
  Batch batch(model_shape(), {{320, 320}, {300, 1}}, AntidiagonalRule{8, 0.5f},
              3);
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
  Batch clean(model_shape(), {{320, 64}, {320, 64}}, AntidiagonalRule{8, 0.6f},
              9);
  Batch poisoned(model_shape(), {{320, 64}, {320, 64}},
                 AntidiagonalRule{8, 0.6f}, 9);
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
                         ::testing::ValuesIn(AttentionPathsToTest()),
                         [](const auto& path) { return path.param; });

}  // namespace
}  // namespace sparseserve
