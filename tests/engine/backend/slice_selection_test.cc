// Rules that look at a whole slice, or at means of blocks, against oracles in
// double precision.

#include <algorithm>
#include <cmath>
#include <limits>
#include <set>
#include <string>
#include <variant>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/engine/backend/backend_under_test.h"
#include "tests/engine/backend/selection_batch.h"
#include "tests/testing/content_rules.h"
#include "tests/testing/oracle_report.h"
#include "tests/testing/reference_attention.h"
#include "tests/testing/selection_oracle.h"

namespace sparseserve {
namespace {

using testing::BoundedSet;
using ::testing::ElementsAre;
using ::testing::ElementsAreArray;
using testing::OracleBatch;
using testing::OracleBlocks;
using testing::OracleDivergence;
using testing::OracleSlice;
using Batch = SelectionBatch;

constexpr Batch::Shape kModelShape = {9, 3, 64, DType::kF32};

constexpr int32_t kEverything = std::numeric_limits<int32_t>::max();

// Blocks of the whole batch.
struct Tally {
  int chosen = 0;
  int left = 0;
  int open = 0;  // that rounding may choose or not
};

// The engine's choice is the oracle's, up to scores that rounding cannot tell
// apart.
Tally ExpectEqualsOracle(Batch& batch) {
  const SelectArgs& args = batch.args();
  EXPECT_EQ(batch.selected().Validate(), absl::OkStatus());
  Tally tally;
  OracleBatch oracle(args);
  for (size_t t = 0; t < args.base->tiles.size(); ++t) {
    for (int head = 0; head < args.kv.kv_heads; ++head) {
      const BoundedSet expected = std::visit(
          [&](const auto& rule) -> BoundedSet {
            if constexpr (std::is_same_v<decltype(rule),
                                         const AntidiagonalRule&>) {
              return {};
            } else {
              return OracleBlocks(oracle, t, head, rule);
            }
          },
          args.rules[0]);
      const std::vector<int32_t> blocks =
          Batch::Blocks(batch.selected(), t, head);
      for (size_t b = 0; b < expected.least.size(); ++b) {
        const bool is_chosen = std::binary_search(blocks.begin(), blocks.end(),
                                                  static_cast<int32_t>(b));
        ++(is_chosen ? tally.chosen : tally.left);
        tally.open += expected.least[b] != expected.most[b];
        EXPECT_TRUE(is_chosen ? expected.most[b] : !expected.least[b])
            << "tile " << t << ", head " << head << ", block " << b;
      }
    }
  }
  return tally;
}

using SliceSelectionTest = BackendTest;

// Every rule by which a system chooses.
struct System {
  const char* name;
  SelectionRule rule;
  // Whether its lists hold what several rows chose, each for itself.
  bool is_superset = false;
};
std::vector<System> Systems() {
  return {{"vertical_slash", VerticalSlashRule{64, 33, 103}},
          {"flex_prefill", FlexPrefillRule{0.45f, 0.0f, 0}},
          {"flex_prefill", FlexPrefillRule{0.3f, 10.0f, 2}},
          {"block_sparse", SimilarityRule{-1.0f, 0.5f}},
          {"similarity_gated", SimilarityRule{0.03f, 0.5f}},
          {"peak_weight", PeakWeightRule{8, 4, 0.3f}},
          {"quest", PageBoundRule{4, 1, 1}},
          {"page_top_p", CandidateMassRule{{6, 1, 1}, 0.6f}},
          {"moba", MeanKeyRule{1, 2}, /*is_superset=*/true}};
}

// Where tiles multiply, keys of bf16.
class SelectedAttentionTest : public BackendTest {
 protected:
  // The worst error of attention over what the batch chose, as share of the
  // largest output, against the same lists in double precision.
  double Error(Batch& batch) {
    AttentionArgs args;
    args.queries = batch.args().queries;
    args.heads = batch.args().heads;
    args.kv = batch.args().kv;
    args.pages = batch.args().pages;
    args.groups.prefill_rows = args.queries.rows;
    args.scale = batch.args().scale;
    args.layout = &batch.selected();
    const ReferenceAttentionResult wanted = ReferenceAttention(args);
    std::vector<float> output(wanted.output.size());
    args.output = {output.data(), args.queries.rows,
                   int64_t{args.heads} * args.kv.head_dim};
    backend().Attention(args);
    double worst = 0, largest = 0;
    for (size_t i = 0; i < output.size(); ++i) {
      const double error = std::abs(output[i] - wanted.output[i]);
      worst = std::max(worst, std::isnan(error) ? HUGE_VAL : error);
      largest = std::max(largest, std::abs(wanted.output[i]));
    }
    return worst / largest;
  }
};

TEST_P(SelectedAttentionTest, ChoicesEqualOraclesAndAreAttendedAsListed) {
  for (const System& system : Systems()) {
    SCOPED_TRACE(::testing::Message()
                 << system.name << ", rule " << system.rule.index());
    testing::OracleReport sets(system.name,
                               system.is_superset ? "superset" : "sets");
    testing::OracleReport exact(system.name, "f32");
    testing::OracleReport rounded(system.name, "bf16");
    for (const DType dtype : {DType::kF32, DType::kBF16}) {
      if (dtype == DType::kF32 && GetParam() == kAmxPath) continue;
      Batch batch({9, 3, 64, dtype},
                  {{600, 600}, {650, 70}, {641, 1}, {500, 3}}, system.rule, 41);
      backend().Select(batch.args());
      const Tally tally = ExpectEqualsOracle(batch);
      EXPECT_GT(tally.left, 10);
      EXPECT_LE(tally.open, 2);
      sets.AddCase();
      sets.AddRows(tally.chosen + tally.left, 0);
      const double error = Error(batch);
      testing::OracleReport& report = dtype == DType::kF32 ? exact : rounded;
      EXPECT_LE(error, GetParam() == kAmxPath ? 2e-2 : 1e-5);
      report.AddCase();
      report.AddRows(batch.args().queries.rows * 9, error);
    }
  }
}

// Every length of prompts and chunks, ends within a block, and few rows.
TEST_P(SliceSelectionTest, VerticalSlashEqualsItsOracle) {
  const VerticalSlashRule kRules[] = {
      {64, 33, 103}, {2, 1, 1}, {17, 33, 105}, {1, 33, 101}};
  for (const VerticalSlashRule& rule : kRules) {
    SCOPED_TRACE(::testing::Message()
                 << rule.rows << " rows, " << rule.columns << " columns, "
                 << rule.diagonals << " diagonals");
    Batch batch(kModelShape, {{1, 1}, {600, 600}, {650, 70}, {601, 3}}, rule,
                21);
    backend().Select(batch.args());
    const Tally tally = ExpectEqualsOracle(batch);
    EXPECT_GT(tally.left, 30);
    EXPECT_LE(tally.open, 2);
  }
}

TEST_P(SliceSelectionTest, FlexPrefillEqualsItsOracleInBothWays) {
  // Every tile's row of a map has the same sum, so half of it could be that of
  // whole rows: rounding would decide whether one more block is needed.
  const FlexPrefillRule kRules[] = {
      {0.45f, 0.0f, 0}, {0.45f, 10.0f, 0}, {0.3f, 0.0f, 2}, {0.3f, 10.0f, 2}};
  for (const FlexPrefillRule& rule : kRules) {
    SCOPED_TRACE(::testing::Message()
                 << "mass " << rule.mass << ", divergence " << rule.divergence
                 << ", at least " << rule.least_blocks);
    Batch batch(kModelShape, Batch::MixedSlices(), rule, 22);
    backend().Select(batch.args());
    const Tally tally = ExpectEqualsOracle(batch);
    EXPECT_GT(tally.left, 15);
    EXPECT_LE(tally.open, 2);
  }
}

// Heads of one batch that go different ways, as far from the bound as rounding
// never reaches.
TEST_P(SliceSelectionTest, DivergenceTellsTheWaysOfHeadsApart) {
  FlexPrefillRule rule = {0.4f, 0.0f, 0};
  Batch measured(kModelShape, Batch::MixedSlices(), rule, 23);
  std::vector<double> divergences;
  const SelectArgs& args = measured.args();
  for (size_t t = 0; t < args.base->tiles.size(); ++t) {
    for (int head = 0; head < args.kv.kv_heads; ++head) {
      divergences.push_back(OracleDivergence(args, OracleSlice(args, t), head));
    }
  }
  std::sort(divergences.begin(), divergences.end());
  divergences.erase(std::unique(divergences.begin(), divergences.end()),
                    divergences.end());
  const size_t middle = divergences.size() / 2;
  ASSERT_GT(divergences[middle] - divergences[middle - 1], 1e-4);
  rule.divergence =
      static_cast<float>((divergences[middle - 1] + divergences[middle]) / 2);
  Batch batch(kModelShape, Batch::MixedSlices(), rule, 23);
  backend().Select(batch.args());
  const Tally tally = ExpectEqualsOracle(batch);
  EXPECT_GT(tally.left, 15);
  EXPECT_LE(tally.open, 2);
}

TEST_P(SliceSelectionTest, SimilarityEqualsItsOracle) {
  // -1 gates nothing; the other keeps blocks of each kind: of random vectors
  // the mean cosine is some hundredths, of aligned ones nearly 1.
  for (const SimilarityRule& rule :
       {SimilarityRule{-1.0f, 0.5f}, SimilarityRule{0.03f, 0.5f},
        SimilarityRule{0.05f, 0.3f}}) {
    SCOPED_TRACE(::testing::Message() << "similarity " << rule.similarity);
    Batch batch(kModelShape, Batch::MixedSlices(), rule, 24);
    batch.AlignKeys(1, 2);
    batch.AlignKeys(3, 4);
    batch.AlignKeys(4, 1);
    backend().Select(batch.args());
    const Tally tally = ExpectEqualsOracle(batch);
    EXPECT_GT(tally.left, 3);
    EXPECT_LE(tally.open, 2);
  }
}

// Rules whose rows some paths multiply on tiles, by keys of bf16.
class PeakSelectionTest : public BackendTest {
 protected:
  Batch::Shape model_shape() const {
    return {9, 3, 64, GetParam() == kAmxPath ? DType::kBF16 : DType::kF32};
  }
};

TEST_P(PeakSelectionTest, PeakWeightsEqualTheirOracle) {
  for (const PeakWeightRule& rule :
       {PeakWeightRule{8, 4, 0.3f}, PeakWeightRule{8, 0, 0.25f},
        PeakWeightRule{64, 64, 0.4f}, PeakWeightRule{16, 3, 0.3f},
        PeakWeightRule{2, 1, 0.35f}}) {
    SCOPED_TRACE(::testing::Message()
                 << "stride " << rule.stride << ", " << rule.rows << " rows");
    Batch batch(model_shape(), Batch::MixedSlices(), rule, 36);
    backend().Select(batch.args());
    const Tally tally = ExpectEqualsOracle(batch);
    EXPECT_GT(tally.left, 5);
    EXPECT_LE(tally.open, 2);
  }
}

// A block that one row alone wants is kept, however little the others give it,
// if that row is looked at.
TEST_P(PeakSelectionTest, OneRowKeepsTheBlockThatItAloneWants) {
  for (const int row : {63, 62}) {  // the last is one of 4, that before is not
    Batch batch(model_shape(), {{640, 64}}, PeakWeightRule{64, 4, 0.9f}, 37);
    std::fill(batch.queries().begin(), batch.queries().end(), 0.0f);
    const SelectArgs& args = batch.args();
    const int64_t first =
        int64_t{args.pages[0][5]} * args.kv.kv_heads * kPageTokens * 64;
    float* const query = batch.queries().data() + row * args.queries.columns;
    for (int i = 0; i < 64; ++i) query[i] = 100 * batch.KeyElement(first + i);
    backend().Select(args);
    const std::vector<int32_t> blocks = Batch::Blocks(batch.selected(), 0, 0);
    EXPECT_EQ(std::binary_search(blocks.begin(), blocks.end(), 5), row == 63);
    EXPECT_THAT(Batch::Blocks(batch.selected(), 0, 1), ElementsAre(0, 9));
  }
}

TEST_P(PeakSelectionTest, PeaksThatAreNoNumberKeepEveryBlock) {
  for (const int rows : {0, 4}) {
    Batch batch(model_shape(), {{640, 64}, {640, 64}},
                PeakWeightRule{8, rows, 1.0f}, 38);
    // Of one query head, so that other rows are as they should be.
    batch.queries()[63 * batch.args().queries.columns + 5] =
        std::numeric_limits<float>::quiet_NaN();
    backend().Select(batch.args());
    EXPECT_EQ(Batch::Blocks(batch.selected(), 0, 0).size(), 10);
    EXPECT_EQ(Batch::Blocks(batch.selected(), 0, 1).size(), 2);
    EXPECT_EQ(Batch::Blocks(batch.selected(), 1, 0).size(), 2);
  }
}

// Prompt rows are no different from output rows, but for their number.
// Depths of whole tiles and others, and keys that are copied to be padded.
TEST_P(PeakSelectionTest, PeakWeightsEqualTheirOracleForEveryShape) {
  for (const Batch::Shape& shape : {Batch::Shape{9, 3, 64, DType::kBF16},
                                    Batch::Shape{2, 2, 128, DType::kBF16},
                                    Batch::Shape{4, 1, 80, DType::kBF16},
                                    Batch::Shape{20, 1, 64, DType::kBF16},
                                    Batch::Shape{1, 1, 256, DType::kBF16},
                                    Batch::Shape{4, 2, 24, DType::kBF16}}) {
    SCOPED_TRACE(::testing::Message() << shape.heads << "/" << shape.kv_heads
                                      << "x" << shape.head_dim);
    Batch batch(shape, {{333, 333}, {301, 70}, {450, 2}},
                PeakWeightRule{8, 4, shape.heads == 20 ? 0.8f : 0.4f}, 25);
    batch.SoftCap(shape.heads == 4 ? 0.6f : 0.0f);
    backend().Select(batch.args());
    const Tally tally = ExpectEqualsOracle(batch);
    EXPECT_GT(tally.left, 0);
    EXPECT_LE(tally.open, 2);
  }
}

TEST_P(SliceSelectionTest, PageBoundsEqualTheirOracle) {
  for (const PageBoundRule& rule :
       {PageBoundRule{3, 0, 0}, PageBoundRule{4, 1, 1}, PageBoundRule{5, 2, 2},
        PageBoundRule{1, 0, 3}, PageBoundRule{6, 1, 1}}) {
    SCOPED_TRACE(::testing::Message()
                 << rule.blocks << " blocks, " << rule.first_blocks << " and "
                 << rule.last_blocks);
    Batch batch(kModelShape,
                {{640, 1}, {641, 1}, {703, 1}, {704, 1}, {500, 3}, {400, 20}},
                rule, 29);
    backend().Select(batch.args());
    const Tally tally = ExpectEqualsOracle(batch);
    EXPECT_GT(tally.left, 30);
    EXPECT_LE(tally.open, 2);
    for (int head = 0; head < 3; ++head) {
      EXPECT_EQ(Batch::Blocks(batch.selected(), 2, head).size(),
                std::max({rule.blocks, rule.first_blocks + rule.last_blocks,
                          1 + rule.last_blocks}));
    }
  }
}

TEST_P(SliceSelectionTest, CandidateMassEqualsItsOracle) {
  for (const CandidateMassRule& rule :
       {CandidateMassRule{{kEverything, 0, 0}, 0.5f},
        CandidateMassRule{{kEverything, 2, 2}, 0.8f},
        CandidateMassRule{{6, 1, 1}, 0.6f}, CandidateMassRule{{4, 1, 2}, 0.9f},
        CandidateMassRule{{5, 1, 1}, 1.0f}}) {
    SCOPED_TRACE(::testing::Message()
                 << rule.candidates.blocks << " blocks, " << rule.mass);
    Batch batch(kModelShape, {{640, 1}, {641, 1}, {703, 1}, {500, 3}}, rule,
                32);
    backend().Select(batch.args());
    const Tally tally = ExpectEqualsOracle(batch);
    EXPECT_GT(tally.left, 20);
    EXPECT_LE(tally.open, 2);
  }
}

TEST_P(SliceSelectionTest, MeanKeysEqualTheirOracle) {
  for (const MeanKeyRule& rule :
       {MeanKeyRule{1, 2}, MeanKeyRule{1, 4}, MeanKeyRule{2, 2},
        MeanKeyRule{3, 2}, MeanKeyRule{2, 1}}) {
    SCOPED_TRACE(::testing::Message()
                 << rule.blocks << " blocks of " << rule.block_pages);
    Batch batch(kModelShape,
                {{640, 1}, {641, 1}, {703, 1}, {704, 1}, {500, 3}, {400, 20}},
                rule, 33);
    backend().Select(batch.args());
    const Tally tally = ExpectEqualsOracle(batch);
    EXPECT_GT(tally.left, 15);
    EXPECT_LE(tally.open, 2);
  }
}

// A tile visits what MoBA's rule shows its rows, the first block, and nothing
// else.
TEST_P(SliceSelectionTest, MobaRowsVisitWhatItsRuleShowsThem) {
  constexpr int kPages = 2;
  const testing::MobaRule rule = {.block = kPages * kPageTokens,
                                  .most_blocks = 2};
  Batch batch(kModelShape, {{640, 1}, {700, 1}, {600, 5}},
              MeanKeyRule{kPages, 2}, 34);
  const SelectArgs& args = batch.args();
  backend().Select(args);
  const int64_t head_dim = args.kv.head_dim;
  int left = 0;
  for (size_t t = 0; t < args.base->tiles.size(); ++t) {
    const QueryTile& tile = args.base->tiles[t];
    for (int kv_head = 0; kv_head < args.kv.kv_heads; ++kv_head) {
      testing::Rows keys = {tile.first_position + tile.rows, head_dim, {}};
      for (int64_t position = 0; position < keys.count; ++position) {
        const int64_t page = args.pages[tile.slice][position / kPageTokens];
        const float* const key =
            reinterpret_cast<const float*>(args.kv.keys) +
            ((page * args.kv.kv_heads + kv_head) * kPageTokens +
             position % kPageTokens) *
                head_dim;
        keys.values.insert(keys.values.end(), key, key + head_dim);
      }
      std::set<int32_t> shown = {0};
      for (int r = 0; r < tile.rows; ++r) {
        for (int h = 3 * kv_head; h < 3 * (kv_head + 1); ++h) {
          const float* const query =
              args.queries.row(tile.first_row + r) + h * head_dim;
          for (const testing::VisibleKey& seen :
               rule.Keys(tile.first_position + r,
                         std::vector<double>(query, query + head_dim), keys)) {
            shown.insert(static_cast<int32_t>(seen.key / kPageTokens));
          }
        }
      }
      EXPECT_THAT(Batch::Blocks(batch.selected(), t, kv_head),
                  ElementsAreArray(shown));
      left +=
          QueryBlock(tile, kPageTokens) + 1 - static_cast<int>(shown.size());
    }
  }
  EXPECT_GT(left, 10);
}

TEST_P(SliceSelectionTest, OfEqualBoundsTheFirstAreChosen) {
  Batch batch(kModelShape, {{640, 1}}, PageBoundRule{5, 1, 1}, 30);
  std::fill(batch.queries().begin(), batch.queries().end(), 0.0f);
  backend().Select(batch.args());
  for (int head = 0; head < 3; ++head) {
    EXPECT_THAT(Batch::Blocks(batch.selected(), 0, head),
                ElementsAre(0, 1, 2, 3, 9));
  }
}

TEST_P(SliceSelectionTest, OfEqualMeansTheFirstAreChosen) {
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    Batch batch({9, 3, 24, dtype}, {{640, 1}}, MeanKeyRule{2, 3}, 30);
    std::fill(batch.queries().begin(), batch.queries().end(), 0.0f);
    backend().Select(batch.args());
    for (int head = 0; head < 3; ++head) {
      EXPECT_THAT(Batch::Blocks(batch.selected(), 0, head),
                  ElementsAre(0, 1, 2, 3, 8, 9));
    }
  }
}

// With no block but its own a row has nothing to choose among: pages before it
// may lie anywhere.
TEST_P(SliceSelectionTest, RowsThatChooseNoBlockReadNoMeans) {
  Batch batch(kModelShape, {{640, 1}}, MeanKeyRule{1, 1}, 35);
  SelectArgs args = batch.args();
  args.kv.keys = nullptr;
  backend().Select(args);
  for (int head = 0; head < 3; ++head) {
    EXPECT_THAT(Batch::Blocks(batch.selected(), 0, head), ElementsAre(0, 9));
  }
}

// The rest of the context may be anything: neither it nor what its pages held
// before is read.
TEST_P(SliceSelectionTest, OutputRowsReadChosenPagesAndBoundsAlone) {
  Batch batch(kModelShape, {{700, 1}}, PageBoundRule{4, 1, 2}, 31);
  const auto attend = [&] {
    const SelectArgs& args = batch.args();
    backend().Select(args);
    std::vector<float> output(args.heads * args.kv.head_dim);
    AttentionArgs attention;
    attention.queries = args.queries;
    attention.heads = args.heads;
    attention.kv = args.kv;
    attention.pages = args.pages;
    attention.scale = args.scale;
    attention.layout = &batch.selected();
    attention.output = {output.data(), 1, args.heads * args.kv.head_dim};
    backend().Attention(attention);
    return output;
  };
  const std::vector<float> before = attend();
  for (int head = 0; head < 3; ++head) {
    const std::vector<int32_t> blocks =
        Batch::Blocks(batch.selected(), 0, head);
    ASSERT_EQ(blocks.size(), 4);
    for (int block = 0; block < 11; ++block) {
      if (!std::binary_search(blocks.begin(), blocks.end(), block)) {
        batch.PoisonBlock(0, block, head);
      }
    }
  }
  EXPECT_EQ(attend(), before);
}

TEST_P(SliceSelectionTest, ChoicesEqualTheirOraclesForEveryShape) {
  for (const Batch::Shape& shape : {Batch::Shape{9, 3, 64, DType::kBF16},
                                    Batch::Shape{2, 2, 128, DType::kF32},
                                    Batch::Shape{4, 1, 80, DType::kBF16},
                                    Batch::Shape{6, 1, 8, DType::kF32},
                                    Batch::Shape{1, 1, 256, DType::kBF16},
                                    Batch::Shape{4, 2, 24, DType::kBF16}}) {
    for (const SelectionRule& rule :
         {SelectionRule(VerticalSlashRule{64, 31, 1}),
          SelectionRule(FlexPrefillRule{0.4f, 0.0f, 1}),
          SelectionRule(FlexPrefillRule{0.4f, 10.0f, 1}),
          SelectionRule(SimilarityRule{-1.0f, 0.4f}),
          SelectionRule(PageBoundRule{3, 1, 1}),
          SelectionRule(CandidateMassRule{{4, 1, 1}, 0.3f}),
          SelectionRule(MeanKeyRule{1, 2}), SelectionRule(MeanKeyRule{2, 2})}) {
      SCOPED_TRACE(::testing::Message()
                   << "rule " << rule.index() << ", " << shape.heads << "/"
                   << shape.kv_heads << "x" << shape.head_dim << " of "
                   << DTypeName(shape.kv_dtype));
      // The last are short enough for means of blocks to leave some out.
      Batch batch(shape, {{333, 333}, {301, 70}, {640, 1}, {450, 2}}, rule, 25);
      batch.SoftCap(shape.heads == 4 ? 0.6f : 0.0f);
      backend().Select(batch.args());
      const Tally tally = ExpectEqualsOracle(batch);
      EXPECT_GT(tally.left, 0);
      EXPECT_LE(tally.open, 2);
    }
  }
}

// What a key's sum is decided by is the rows' end alone.
TEST_P(SliceSelectionTest, LastRowsChooseForAllOfAPromptAndOthersForNone) {
  const VerticalSlashRule rule = {64, 40, 110};
  Batch batch(kModelShape, {{640, 640}}, rule, 26);
  const int64_t width = batch.args().queries.columns;
  backend().Select(batch.args());
  const auto chosen = [&] {
    std::vector<std::vector<int32_t>> lists;
    for (size_t t = 0; t < 10; ++t) {
      for (int head = 0; head < 3; ++head) {
        lists.push_back(Batch::Blocks(batch.selected(), t, head));
      }
    }
    return lists;
  };
  const auto before = chosen();
  for (int64_t i = 0; i < 576 * width; ++i) batch.queries()[i] *= -1;
  backend().Select(batch.args());
  EXPECT_EQ(chosen(), before);
  for (int64_t i = 576 * width; i < 640 * width; ++i) batch.queries()[i] *= -1;
  backend().Select(batch.args());
  EXPECT_NE(chosen(), before);
}

// A chunk that begins on a block's border chooses as the whole prompt does.
TEST_P(SliceSelectionTest, SimilarityOfAChunkIsThatOfTheWholePrompt) {
  const SimilarityRule rule = {0.02f, 0.4f};
  Batch whole(kModelShape, {{640, 640}}, rule, 3);
  Batch last(kModelShape, {{640, 64}}, rule, 3);
  std::copy(whole.queries().end() - static_cast<int64_t>(last.queries().size()),
            whole.queries().end(), last.queries().begin());
  backend().Select(whole.args());
  backend().Select(last.args());
  for (int head = 0; head < 3; ++head) {
    EXPECT_EQ(Batch::Blocks(whole.selected(), 9, head),
              Batch::Blocks(last.selected(), 0, head));
  }
}

TEST_P(SliceSelectionTest, SliceChoosesTheSameAloneAndInABatch) {
  for (const SelectionRule& rule :
       {SelectionRule(VerticalSlashRule{64, 40, 110}),
        SelectionRule(FlexPrefillRule{0.4f, 0.0f, 1}),
        SelectionRule(FlexPrefillRule{0.4f, 10.0f, 1}),
        SelectionRule(SimilarityRule{-1.0f, 0.4f}),
        SelectionRule(PageBoundRule{3, 1, 1}),
        SelectionRule(CandidateMassRule{{4, 1, 1}, 0.4f}),
        SelectionRule(MeanKeyRule{1, 2})}) {
    // The second slice's pages, keys and queries are drawn last, so they differ
    // between two batches; those of this one stay as they are.
    Batch batch(kModelShape, {{500, 500}, {400, 400}}, rule, 27);
    backend().Select(batch.args());
    std::vector<std::vector<int32_t>> together;
    for (size_t t = 8; t < 15; ++t) {
      together.push_back(Batch::Blocks(batch.selected(), t, 1));
    }
    for (size_t t = 0; t < 8; ++t) {
      for (int head = 0; head < 3; ++head) batch.selection(t, head) = {};
    }
    backend().Select(batch.args());
    for (size_t t = 8; t < 15; ++t) {
      EXPECT_EQ(Batch::Blocks(batch.selected(), t, 1), together[t - 8]);
    }
    EXPECT_EQ(Batch::Blocks(batch.selected(), 7, 1).size(), 8);
  }
}

TEST_P(SliceSelectionTest, BoundsOfParametersKeepEverythingOrTheEndsAlone) {
  const int kMost = std::numeric_limits<int32_t>::max();
  for (const SelectionRule& rule :
       {SelectionRule(VerticalSlashRule{64, kMost, 1}),
        SelectionRule(VerticalSlashRule{64, 1, kMost}),
        SelectionRule(FlexPrefillRule{1.0f, 0.0f, 0}),
        SelectionRule(FlexPrefillRule{1.0f, 10.0f, 0}),
        SelectionRule(FlexPrefillRule{0.1f, 10.0f, kMost}),
        SelectionRule(SimilarityRule{-1.0f, 1.0f}),
        SelectionRule(SimilarityRule{1.0f, 0.1f}),
        SelectionRule(PageBoundRule{6, 0, 0}),
        SelectionRule(PageBoundRule{kMost, kMost, kMost}),
        SelectionRule(PageBoundRule{1, kMost, 0}),
        SelectionRule(PageBoundRule{1, 0, kMost}),
        SelectionRule(CandidateMassRule{{kMost, 0, 0}, 1.0f}),
        SelectionRule(MeanKeyRule{1, kMost}),
        SelectionRule(MeanKeyRule{kMost / kPageTokens, 1})}) {
    SCOPED_TRACE(rule.index());
    Batch batch(kModelShape, {{333, 333}}, rule, 28);
    backend().Select(batch.args());
    EXPECT_EQ(Batch::Blocks(batch.selected(), 5, 1).size(), 6);
  }
  for (const SelectionRule& rule :
       {SelectionRule(VerticalSlashRule{64, 1, 1}),
        SelectionRule(FlexPrefillRule{1e-20f, 10.0f, 0}),
        SelectionRule(SimilarityRule{-1.0f, 1e-20f}),
        SelectionRule(PageBoundRule{1, 0, 0}),
        SelectionRule(CandidateMassRule{{5, 0, 0}, 1e-20f}),
        SelectionRule(MeanKeyRule{1, 1})}) {
    SCOPED_TRACE(rule.index());
    Batch batch(kModelShape, {{320, 320}}, rule, 28);
    backend().Select(batch.args());
    EXPECT_THAT(Batch::Blocks(batch.selected(), 4, 1), ElementsAre(0, 4));
  }
}

TEST_P(SliceSelectionTest,
       NotANumberInOneSequenceChoosesAllThereAndNothingElsewhere) {
  for (const SelectionRule& rule :
       {SelectionRule(VerticalSlashRule{64, 1, 1}),
        SelectionRule(FlexPrefillRule{0.2f, 0.0f, 0}),
        SelectionRule(FlexPrefillRule{0.2f, 10.0f, 0}),
        SelectionRule(SimilarityRule{-1.0f, 0.2f}),
        SelectionRule(SimilarityRule{0.01f, 0.2f}),
        SelectionRule(PageBoundRule{3, 1, 1}),
        SelectionRule(CandidateMassRule{{4, 1, 1}, 0.3f}),
        SelectionRule(CandidateMassRule{{kEverything, 1, 1}, 0.3f}),
        SelectionRule(MeanKeyRule{1, 2})}) {
    SCOPED_TRACE(rule.index());
    Batch clean(kModelShape, {{320, 64}, {320, 64}}, rule, 9);
    Batch poisoned(kModelShape, {{320, 64}, {320, 64}}, rule, 9);
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
}

// The widest path, and that on tiles: others have tests of choosing, and of
// attention, of their own.
std::vector<std::string> WidestPaths() {
  std::vector<std::string> paths = {SimdPathsToTest().back()};
  if (AttentionPathsToTest().back() == kAmxPath) paths.push_back(kAmxPath);
  return paths;
}

INSTANTIATE_TEST_SUITE_P(Paths, SelectedAttentionTest,
                         ::testing::ValuesIn(WidestPaths()),
                         [](const auto& path) { return path.param; });
INSTANTIATE_TEST_SUITE_P(Paths, PeakSelectionTest,
                         ::testing::ValuesIn(AttentionPathsToTest()),
                         [](const auto& path) { return path.param; });
INSTANTIATE_TEST_SUITE_P(Paths, SliceSelectionTest,
                         ::testing::ValuesIn(SimdPathsToTest()),
                         [](const auto& path) { return path.param; });

}  // namespace
}  // namespace sparseserve
