// Prefill attention that may leave out blocks of negligible weight against the
// rule in double precision (BlockLayout::skip_below): which blocks rows leave
// out that decide together, how many, and what is attended then.

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "engine/backend/cuda/prefill_attention.h"
#include "tests/engine/backend/cuda/attention_batch.h"
#include "tests/engine/backend/cuda/bfloat16_bits.h"
#include "tests/engine/backend/cuda/device_array.h"
#include "tests/engine/backend/cuda/list_kinds.h"
#include "tests/engine/backend/cuda/prefill_kernels.h"
#include "tests/engine/backend/cuda/test_report.h"

namespace sparseserve::cuda {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
// Scores that are as close to where a decision turns may go either way.
constexpr double kUnclear = 2e-3;

// Which rows and blocks a kernel decides on together.
struct Deciders {
  int rows = 0;
  int blocks = 0;
};

// What a tile's query head is to leave.
struct Expected {
  std::vector<ReferenceRow> rows;  // of the tile
  int skipped = 0;
  bool clear = true;
};

class SkippingPrefillTest {
 public:
  SkippingPrefillTest(const PrefillAttention& attention, TestReport& report)
      : attention_(attention),
        deciders_(attention.kernel() == PrefillKernel::kHopper
                      ? Deciders{64, 2}
                      : Deciders{16, 1}),
        report_(report) {}

  void FollowsTheRule(const BatchShape& shape, ListKind kind,
                      double threshold) {
    HostBatch batch = MakeBatch(shape, random_);
    FillLists(kind, random_, batch);
    Weigh(batch);
    // One pair in five never skips.
    std::vector<float> below(batch.lists.list_of.size());
    for (std::size_t i = 0; i < below.size(); ++i) {
      below[i] = i % 5 == 4 ? -std::numeric_limits<float>::infinity()
                            : static_cast<float>(std::log(threshold));
    }
    DeviceBatch device(batch);
    device.PoisonResults();
    const DeviceArray<float> device_below(below);
    const DeviceArray<std::int32_t> device_skipped(
        std::vector<std::int32_t>(below.size(), 7));
    PrefillAttentionArgs args = device.Args();
    args.lists.skip_below = device_below.data();
    args.skipped = device_skipped.data();
    const LaunchStatus status = attention_.Run(args, nullptr);
    report_.Expect(status.ok(), "%s", status.message().c_str());
    report_.ExpectOk(cudaDeviceSynchronize(), "skipping prefill");
    const std::vector<std::uint16_t> output = device.output.Download();
    const std::vector<float> lse = device.lse.Download();
    const std::vector<std::int32_t> skipped = device_skipped.Download();

    long all_skipped = 0, unclear = 0, pairs = 0;
    double worst = 0, worst_lse = 0;
    const int group = shape.group, kv_heads = shape.kv_heads;
    for (int tile = 0; tile < batch.lists.tiles(); ++tile) {
      for (int kv_head = 0; kv_head < kv_heads; ++kv_head) {
        const int pair = tile * kv_heads + kv_head;
        int wanted = 0;
        bool clear = true;
        for (int head = kv_head * group; head < (kv_head + 1) * group; ++head) {
          const Expected expected = Expect(batch, tile, head, below[pair]);
          wanted += expected.skipped;
          clear = clear && expected.clear;
          if (!expected.clear) continue;
          Compare(batch, tile, head, expected, output, lse, worst, worst_lse);
        }
        ++pairs;
        unclear += !clear;
        all_skipped += wanted;
        if (!clear) continue;
        report_.Expect(skipped[pair] == wanted + 7,
                       "tile %d, KV head %d: %d skipped, %d wanted", tile,
                       kv_head, skipped[pair] - 7, wanted);
      }
    }
    report_.Expect(unclear * 20 < pairs, "%ld of %ld pairs are unclear",
                   unclear, pairs);
    report_.Expect(threshold == 0
                       ? all_skipped == 0
                       : kind == ListKind::kDiagonal || all_skipped > 100,
                   "%ld skipped", all_skipped);
    report_.Expect(worst <= 1 && worst_lse <= 1,
                   "output off by %.3g, LSE by %.3g of what is allowed", worst,
                   worst_lse);
    std::printf("%s d%d group %d %s, %g: %ld skipped, output %.2f, LSE %.2f\n",
                deciders_.blocks == 2 ? "hopper" : "portable", shape.head_dim,
                group, NameOf(kind), threshold, all_skipped, worst, worst_lse);
  }

  // A NaN is not below anything.
  void GarbageComesToLight() {
    HostBatch batch = MakeBatch({128, 1, 2, {{640, 64}}}, random_);
    FillLists(ListKind::kDense, random_, batch);
    Weigh(batch);
    const std::int64_t page = batch.page_tables[4];  // a light one
    std::fill_n(batch.keys.begin() + page * 64 * 128, 128, 0x7fc0);
    DeviceBatch device(batch);
    device.PoisonResults();
    const DeviceArray<float> below(std::vector<float>(1, std::log(0.01f)));
    PrefillAttentionArgs args = device.Args();
    args.lists.skip_below = below.data();
    report_.Expect(attention_.Run(args, nullptr).ok(), "run with NaN");
    report_.ExpectOk(cudaDeviceSynchronize(), "run with NaN");
    for (const float lse : device.lse.Download()) {
      // Rows of no tile are NaN from the start.
      report_.Expect(std::isnan(lse), "a row of NaN has the LSE %g", lse);
    }
  }

 private:
  static constexpr int kPage = 64;

  // Blocks' keys get lengths of their own, queries more than they have.
  void Weigh(HostBatch& batch) {
    constexpr float kLengths[] = {3, 0.2f, 0.1f, 0.2f, 0.1f, 1};
    const int page_size = batch.shape.kv_heads * kPage * batch.shape.head_dim;
    for (std::size_t slice = 0; slice < batch.shape.slices.size(); ++slice) {
      const SliceShape& of = batch.shape.slices[slice];
      for (int block = 0; block * kPage < of.context + of.rows; ++block) {
        const std::int64_t page =
            batch.page_tables[slice * batch.page_table_stride + block];
        for (int i = 0; i < page_size; ++i) {
          std::uint16_t& key = batch.keys[page * page_size + i];
          key = ToBfloat16(FromBfloat16(key) * kLengths[block % 6]);
        }
      }
    }
    for (std::uint16_t& query : batch.queries) {
      query = ToBfloat16(2 * FromBfloat16(query));
    }
  }

  // A block as the tile lists it.
  struct Listed {
    int block = 0;
    std::int64_t partial = -1;  // entry of partial_blocks
  };

  // Keys of the block that the row sees: where they begin.
  static void AddVisible(const HostBatch& batch, int tile, int row, int kv_head,
                         const Listed& listed,
                         std::vector<std::int64_t>& visible) {
    const HostLists& lists = batch.lists;
    const std::int32_t* fields = &lists.tile_fields[tile * 4];
    const std::int64_t page =
        batch.page_tables[fields[0] * batch.page_table_stride + listed.block];
    for (int key = 0; key < kPage; ++key) {
      bool shown = true;
      if (listed.partial >= 0) {
        shown =
            lists.partial_masks.empty()
                ? listed.block * kPage + key <= fields[3] + row
                : (lists.partial_masks[listed.partial * kPage + row] >> key) &
                      1;
      }
      if (!shown) continue;
      visible.push_back(
          ((page * batch.shape.kv_heads + kv_head) * kPage + key) *
          batch.shape.head_dim);
    }
  }

  static double Greatest(const HostBatch& batch, const std::uint16_t* query,
                         const std::vector<std::int64_t>& visible) {
    double greatest = -kInfinity;
    for (const std::int64_t key : visible) {
      double sum = 0;
      for (int i = 0; i < batch.shape.head_dim; ++i) {
        sum +=
            double{FromBfloat16(query[i])} * FromBfloat16(batch.keys[key + i]);
      }
      greatest = std::max(greatest, sum * batch.scale);
    }
    return greatest;
  }

  Expected Expect(const HostBatch& batch, int tile, int head,
                  double below) const {
    const HostLists& lists = batch.lists;
    const std::int32_t* fields = &lists.tile_fields[tile * 4];
    const int kv_head = head / batch.shape.group;
    const int list = lists.list_of[tile * batch.shape.kv_heads + kv_head];
    std::vector<Listed> blocks;
    for (auto i = lists.partial_offsets[list];
         i < lists.partial_offsets[list + 1]; ++i) {
      blocks.push_back({lists.partial_blocks[i], i});
    }
    for (auto i = lists.full_offsets[list]; i < lists.full_offsets[list + 1];
         ++i) {
      blocks.push_back({lists.full_blocks[i], -1});
    }
    // With two at a time the first one may be alone.
    const int count = static_cast<int>(blocks.size());
    const int padding = deciders_.blocks == 2 ? count % 2 : 0;
    Expected expected;
    expected.rows.resize(fields[2]);
    for (int first = 0; first < fields[2]; first += deciders_.rows) {
      const int end = std::min(first + deciders_.rows, fields[2]);
      std::vector<std::vector<std::int64_t>> kept(end - first);
      std::vector<double> greatest(end - first, -kInfinity);
      for (int slot = 0; slot < count + padding; slot += deciders_.blocks) {
        bool full = true;
        double excess = -kInfinity;  // of a row, over where it has no use
        std::vector<std::vector<std::int64_t>> visible(end - first);
        std::vector<double> of_rows(end - first);
        const int begin = std::max(slot - padding, 0);
        const int until = slot - padding + deciders_.blocks;
        for (int b = begin; b < until; ++b) {
          full = full && blocks[b].partial < 0;
        }
        for (int row = first; row < end; ++row) {
          auto& keys = visible[row - first];
          for (int b = begin; b < until; ++b) {
            AddVisible(batch, tile, row, kv_head, blocks[b], keys);
          }
          of_rows[row - first] =
              Greatest(batch, Query(batch, tile, row, head), keys);
          const double limit = greatest[row - first] + below;
          excess = std::max(excess, limit == -kInfinity
                                        ? kInfinity
                                        : of_rows[row - first] - limit);
        }
        // The padded step is a masked one.
        const bool skips = full && (slot > 0 || padding == 0) && excess < 0;
        if (full && std::abs(excess) < kUnclear) expected.clear = false;
        if (skips) {
          expected.skipped += deciders_.blocks * (end - first);
          continue;
        }
        for (int i = 0; i < end - first; ++i) {
          kept[i].insert(kept[i].end(), visible[i].begin(), visible[i].end());
          greatest[i] = std::max(greatest[i], of_rows[i]);
        }
      }
      for (int row = first; row < end; ++row) {
        expected.rows[row] =
            ReferenceRowOver(Query(batch, tile, row, head), batch.keys.data(),
                             batch.values.data(), kept[row - first],
                             batch.shape.head_dim, batch.scale);
      }
    }
    return expected;
  }

  static const std::uint16_t* Query(const HostBatch& batch, int tile, int row,
                                    int head) {
    const std::int64_t batch_row = batch.lists.tile_fields[tile * 4 + 1] + row;
    return &batch.queries[(batch_row * batch.heads() + head) *
                          batch.shape.head_dim];
  }

  static void Compare(const HostBatch& batch, int tile, int head,
                      const Expected& expected,
                      const std::vector<std::uint16_t>& output,
                      const std::vector<float>& lse, double& worst,
                      double& worst_lse) {
    const auto join = [](double& to, double error) {
      to = std::max(to, std::isnan(error) ? kInfinity : error);
    };
    const int width = batch.shape.head_dim;
    for (std::size_t row = 0; row < expected.rows.size(); ++row) {
      const ReferenceRow& wanted = expected.rows[row];
      const std::int64_t at =
          (batch.lists.tile_fields[tile * 4 + 1] + std::int64_t(row)) *
              batch.heads() +
          head;
      for (int i = 0; i < width; ++i) {
        join(worst,
             std::abs(FromBfloat16(output[at * width + i]) - wanted.output[i]) /
                 OutputTolerance(wanted.output[i], wanted.magnitude[i]));
      }
      if (lse[at] == wanted.lse) continue;
      join(worst_lse,
           std::abs(lse[at] - wanted.lse) / LseTolerance(wanted.lse));
    }
  }

  const PrefillAttention& attention_;
  const Deciders deciders_;
  TestReport& report_;
  std::mt19937 random_{20261130};
};

void TestKernel(const PrefillAttention& attention, TestReport& report) {
  SkippingPrefillTest test(attention, report);
  const std::vector<SliceShape> slices = {{0, 65}, {1500, 90}, {330, 200}};
  for (const int head_dim : {64, 128}) {
    for (const ListKind kind : kAllListKinds) {
      test.FollowsTheRule({head_dim, 2, 3, slices}, kind, 0.02);
    }
    test.FollowsTheRule({head_dim, 2, 1, slices}, ListKind::kDense, 0.3);
    test.FollowsTheRule({head_dim, 1, 4, slices}, ListKind::kDense, 0);
  }
  test.GarbageComesToLight();
}

}  // namespace
}  // namespace sparseserve::cuda

int main() {
  return sparseserve::cuda::TestPrefillKernels("skipping_prefill_test",
                                               sparseserve::cuda::TestKernel);
}
