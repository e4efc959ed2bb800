// What the CUDA backend chooses, told at a step's end and seen in what
// attention makes of it, beside the CPU's choice in exact mode on the same
// rounded numbers. Tests skip themselves where there is no GPU.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <iostream>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "engine/backend/create_backend.h"
#include "engine/tensor/quant_blocks.h"
#include "gtest/gtest.h"
#include "tests/engine/backend/selection_batch.h"

namespace sparseserve {
namespace {

using Batch = SelectionBatch;
using Floats = std::vector<float>;

constexpr Batch::Shape kShapes[] = {{9, 3, 64, DType::kBF16},
                                    {8, 2, 128, DType::kBF16},
                                    {4, 4, 64, DType::kBF16}};

// One output row of each sequence, of which some have less than a rule visits.
std::vector<Batch::Slice> OutputRows() {
  return {{700, 1}, {64, 1}, {65, 1}, {1000, 1}, {3, 1}, {449, 1}};
}

// Of pairs of tile and KV head.
struct Tally {
  int alike = 0;
  int other_counts = 0;
  int other_outputs = 0;
};

class CudaSelectionTest : public ::testing::Test {
 protected:
  void SetUp() override {
    auto cuda = CreateBackend({.device = "cuda"});
    if (!cuda.ok()) GTEST_SKIP() << cuda.status().message();
    cuda_ = *std::move(cuda);
    cpu_ = CreateBackend({.compute_dtype = "f32"}).value();
  }

  Buffer Put(const void* values, int64_t bytes) {
    Buffer buffer = cuda_->Allocate(bytes).value();
    cuda_->Upload(values, bytes, buffer.data());
    return buffer;
  }

  // Runs both; `layer` is SelectArgs::layer. `kept` as there.
  Tally Compare(Batch& batch, RowGroups groups, int layer = 0,
                absl::Span<const absl::Span<const BlockRange>> kept = {}) {
    for (float& value : batch.queries()) {
      value = BFloat16ToFloat(FloatToBFloat16(value));
    }
    SelectArgs args = batch.args();
    args.layer = layer;
    args.groups = groups;
    args.kept = kept;
    cpu_->Select(args);
    const Floats wanted = CpuOutput(args);
    const Floats found = CudaOutput(args);
    const Tally tally = CompareOutputs(args, found, wanted);
    std::cout << tally.alike << " pairs alike, " << tally.other_counts
              << " of other lengths, " << tally.other_outputs
              << " of other outputs\n";
    return tally;
  }

  Floats CpuOutput(const SelectArgs& args) {
    const int64_t width = int64_t{args.heads} * args.kv.head_dim;
    Floats output(args.queries.rows * width);
    AttentionArgs attention;
    attention.queries = args.queries;
    attention.heads = args.heads;
    attention.kv = args.kv;
    attention.pages = args.pages;
    attention.scale = args.scale;
    attention.layout = &args.selected->layout();
    attention.output = {output.data(), args.queries.rows, width};
    cpu_->Attention(attention);
    return output;
  }

  // What Select() tells is in chosen_.
  Floats CudaOutput(const SelectArgs& host) {
    const int64_t width = int64_t{host.heads} * host.kv.head_dim;
    const int64_t side_bytes = int64_t{host.kv.pages} * host.kv.kv_heads *
                               kPageTokens * host.kv.head_dim * 2;
    std::vector<uint16_t> queries(host.queries.rows * host.queries.columns);
    for (size_t i = 0; i < queries.size(); ++i) {
      queries[i] = FloatToBFloat16(host.queries.row(0)[i]);
    }
    // Who opens a page on this device clears its values.
    std::vector<uint16_t> values(side_bytes / 2);
    const auto* stored = reinterpret_cast<const uint16_t*>(host.kv.values);
    for (size_t i = 0; i < values.size(); ++i) {
      values[i] = std::isnan(BFloat16ToFloat(stored[i])) ? 0 : stored[i];
    }
    const Buffer query_buffer = Put(queries.data(), queries.size() * 2);
    const Buffer key_buffer = Put(host.kv.keys, side_bytes);
    const Buffer value_buffer = Put(values.data(), side_bytes);
    const Buffer bound_buffer = Put(host.kv.key_bounds, side_bytes / 32);
    const Buffer output_buffer =
        cuda_->Allocate(host.queries.rows * width * 2).value();

    SelectArgs args = host;
    LayoutBuilder selected(host.kv.kv_heads);
    selected.CopyFrom(*host.base);
    args.queries = MatrixView(query_buffer.data(), DType::kBF16,
                              host.queries.rows, host.queries.columns);
    args.kv.keys = key_buffer.data();
    args.kv.values = value_buffer.data();
    args.kv.key_bounds = bound_buffer.data();
    args.selected = &selected;
    args.chosen = &chosen_;
    AttentionArgs attention;
    attention.queries = args.queries;
    attention.heads = args.heads;
    attention.kv = args.kv;
    attention.pages = args.pages;
    attention.groups = args.groups;
    attention.scale = args.scale;
    attention.layout = &selected.layout();
    attention.output = {output_buffer.data(), DType::kBF16, host.queries.rows,
                        width};
    // Three times: the third one of output rows alone replays a graph.
    std::vector<uint16_t> bits(host.queries.rows * width);
    for (int run = 0; run < 3; ++run) {
      cuda_->BeginStep(args.groups);
      cuda_->Select(args);
      cuda_->Attention(attention);
      const absl::Status status = cuda_->EndStep();
      EXPECT_TRUE(status.ok()) << status;
      const std::vector<uint16_t> before = bits;
      cuda_->Download(output_buffer.data(), output_buffer.bytes(), bits.data());
      EXPECT_TRUE(run == 0 || bits == before) << "run " << run;
    }
    Floats output(bits.size());
    std::transform(bits.begin(), bits.end(), output.begin(), BFloat16ToFloat);
    return output;
  }

  Tally CompareOutputs(const SelectArgs& args, const Floats& found,
                       const Floats& wanted) {
    Tally tally;
    const BlockLayout& layout = args.selected->layout();
    const int32_t kv_heads = args.kv.kv_heads;
    const int64_t width = int64_t{args.heads} * args.kv.head_dim;
    const int64_t of_head = width / kv_heads;
    double largest = 0;
    for (const float value : wanted) {
      largest = std::max(largest, std::abs(double{value}));
    }
    for (size_t pair = 0; pair < layout.list_of.size(); ++pair) {
      const QueryTile& tile = layout.tiles[pair / kv_heads];
      double worst = 0;
      for (int32_t row = 0; row < tile.rows; ++row) {
        const int64_t first =
            (tile.first_row + row) * width + pair % kv_heads * of_head;
        for (int64_t i = first; i < first + of_head; ++i) {
          const double off = std::abs(double{found[i]} - wanted[i]);
          if (!(off <= worst)) worst = std::isnan(off) ? HUGE_VAL : off;
        }
      }
      const bool is_used = args.selections[pair].IsUsedIn(args.layer);
      const int64_t count = layout.ListBlocks(layout.list_of[pair]);
      if (worst > largest / 64) {
        ++tally.other_outputs;
      } else if (is_used && chosen_.counts[pair] != count) {
        ++tally.other_counts;
      } else {
        ++tally.alike;
      }
    }
    return tally;
  }

  std::unique_ptr<Backend> cuda_;
  std::unique_ptr<Backend> cpu_;
  ChosenBlocks chosen_;
};

RowGroups PromptRows(Batch& batch) {
  return {.decode_rows = 0, .prefill_rows = batch.args().queries.rows};
}
RowGroups RowsOfOutput(Batch& batch) {
  return {.decode_rows = batch.args().queries.rows, .prefill_rows = 0};
}

// A block at the edge of what a rule takes may fall on its other side.
void ExpectAlike(const Tally& tally, int most_others) {
  EXPECT_LE(tally.other_counts + tally.other_outputs, most_others);
  EXPECT_GT(tally.alike, 10);
}

TEST_F(CudaSelectionTest, PromptTilesChooseAsOnTheCpu) {
  for (const Batch::Shape& shape : kShapes) {
    for (const SelectionRule& rule :
         {SelectionRule(AntidiagonalRule{8, 0.6f}),
          SelectionRule(AntidiagonalRule{2, 0.9f}),
          SelectionRule(AntidiagonalRule{64, 0.5f}),
          SelectionRule(AntidiagonalRule{16, 1.0f}),
          SelectionRule(SimilarityRule{-1.0f, 0.6f}),
          SelectionRule(SimilarityRule{0.1f, 0.9f})}) {
      Batch batch(shape, Batch::MixedSlices(), rule, 3);
      ExpectAlike(Compare(batch, PromptRows(batch)), 1);
    }
  }
}

TEST_F(CudaSelectionTest, LastRowsChooseAsOnTheCpu) {
  for (const Batch::Shape& shape : kShapes) {
    for (const SelectionRule& rule :
         {SelectionRule(VerticalSlashRule{64, 33, 103}),
          SelectionRule(VerticalSlashRule{17, 5, 3}),
          SelectionRule(FlexPrefillRule{0.45f, 0.0f, 0}),
          SelectionRule(FlexPrefillRule{0.45f, 10.0f, 1})}) {
      Batch batch(shape, Batch::MixedSlices(), rule, 4);
      ExpectAlike(Compare(batch, PromptRows(batch)), 1);
    }
  }
}

// As in a prompt, whose first blocks have nothing to choose and whose last one
// may see everything.
TEST_F(CudaSelectionTest, LastRowsChooseForTheTilesBetween) {
  for (const SelectionRule& rule :
       {SelectionRule(VerticalSlashRule{64, 5, 9}),
        SelectionRule(FlexPrefillRule{0.3f, 10.0f, 1})}) {
    Batch batch(kShapes[0], {{600, 600}}, rule, 5);
    for (const int tile : {0, 1, 9}) {
      for (int head = 0; head < kShapes[0].kv_heads; ++head) {
        batch.selection(tile, head) = {};
      }
    }
    ExpectAlike(Compare(batch, PromptRows(batch)), 1);
  }
}

TEST_F(CudaSelectionTest, OutputRowsChooseAsOnTheCpu) {
  for (const Batch::Shape& shape : kShapes) {
    for (const PageBoundRule& rule :
         {PageBoundRule{4, 1, 1}, PageBoundRule{6, 0, 0},
          PageBoundRule{1, 2, 3}, PageBoundRule{100, 1, 1}}) {
      Batch batch(shape, OutputRows(), rule, 5);
      ExpectAlike(Compare(batch, RowsOfOutput(batch)), 0);
    }
  }
}

// Heads that see a window by masks, of the same tiles.
TEST_F(CudaSelectionTest, HeadsBesideThemKeepTheirMasks) {
  const KeyPredicate window = {SinkWindowKeys{5, 100}};
  Batch prompt(kShapes[0], Batch::MixedSlices(), AntidiagonalRule{8, 0.6f}, 7);
  prompt.OnlyHeadSelects(1, window);
  ExpectAlike(Compare(prompt, PromptRows(prompt)), 1);
  Batch output(kShapes[0], OutputRows(), PageBoundRule{4, 1, 1}, 8);
  output.OnlyHeadSelects(1, window);
  ExpectAlike(Compare(output, RowsOfOutput(output)), 0);
  // Whole blocks, which the kernel for decoding takes.
  Batch whole(kShapes[1], OutputRows(), PageBoundRule{4, 1, 1}, 9);
  whole.OnlyHeadSelects(0, {ChunkKeys{128}});
  ExpectAlike(Compare(whole, RowsOfOutput(whole)), 0);
}

TEST_F(CudaSelectionTest, LayersBeforeTheFirstDoWithout) {
  Batch batch(kShapes[1], OutputRows(), PageBoundRule{3, 1, 1}, 10);
  const size_t tiles = batch.args().base->tiles.size();
  for (size_t tile = 0; tile < tiles; ++tile) {
    batch.selection(tile, 1).first_layer = 2;
  }
  ExpectAlike(Compare(batch, RowsOfOutput(batch), 0), 0);
  ExpectAlike(Compare(batch, RowsOfOutput(batch), 2), 0);
}

// Lists that were chosen before are taken, and those that are chosen beside
// them are told.
TEST_F(CudaSelectionTest, KeptListsAreTakenAndNewOnesTold) {
  Batch batch(kShapes[1], OutputRows(), PageBoundRule{4, 1, 1}, 11);
  const size_t pairs = batch.args().base->list_of.size();
  for (size_t pair = 0; pair < pairs; ++pair) {
    batch.selection(pair / 2, pair % 2).reuse_steps = 16;
  }
  std::vector<absl::Span<const BlockRange>> kept(pairs);
  ExpectAlike(Compare(batch, RowsOfOutput(batch), 0, kept), 0);
  const ChosenBlocks first = chosen_;
  ASSERT_EQ(first.lists.size(), pairs);
  for (size_t pair = 0; pair < pairs; ++pair) {
    std::vector<int32_t> blocks;
    for (const BlockRange& range : first.lists[pair]) {
      for (int32_t b = range.begin; b < range.end; ++b) blocks.push_back(b);
    }
    EXPECT_EQ(blocks, Batch::Blocks(batch.selected(), pair / 2, pair % 2));
  }
  // Other queries do not change a kept list.
  for (float& value : batch.queries()) value = -value;
  for (size_t pair = 0; pair < pairs; pair += 3) kept[pair] = first.lists[pair];
  ExpectAlike(Compare(batch, RowsOfOutput(batch), 0, kept), 0);
  for (size_t pair = 0; pair < pairs; ++pair) {
    EXPECT_EQ(chosen_.lists[pair].empty(), pair % 3 == 0) << pair;
  }
  // Nobody chooses.
  for (size_t pair = 0; pair < pairs; ++pair) kept[pair] = first.lists[pair];
  ExpectAlike(Compare(batch, RowsOfOutput(batch), 0, kept), 0);
  EXPECT_EQ(chosen_.counts, first.counts);
}

TEST_F(CudaSelectionTest, GarbageComesToLight) {
  Batch batch(kShapes[1], OutputRows(), PageBoundRule{4, 1, 1}, 12);
  batch.queries()[0] = std::nanf("");
  Compare(batch, RowsOfOutput(batch));
  EXPECT_EQ(chosen_.counts[0], 11);  // all that the row may see
}

}  // namespace
}  // namespace sparseserve
