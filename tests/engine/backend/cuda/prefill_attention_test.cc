// Prefill attention against a reference in double precision: head widths, group
// sizes, odd numbers of rows, chunks that begin within a block, every kind of
// list; free pages and keys that were never stored are NaN.

#include "engine/backend/cuda/prefill_attention.h"

#include <cstdio>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "tests/engine/backend/cuda/attention_comparison.h"
#include "tests/engine/backend/cuda/list_kinds.h"
#include "tests/engine/backend/cuda/prefill_kernels.h"

namespace sparseserve::cuda {
namespace {

// One row, a block and one row less or more, a chunk that begins within a
// block, one whose rows lie in three blocks.
const std::vector<SliceShape> kOddSlices = {
    {0, 1}, {0, 63}, {0, 64}, {0, 65}, {70, 45}, {191, 130}, {640, 1}};
// Lists of more than the 32 slots that are planned together.
const std::vector<SliceShape> kLongSlices = {{2150, 70}, {0, 5}};

class PrefillAttentionTest {
 public:
  PrefillAttentionTest(const PrefillAttention& attention, TestReport& report)
      : attention_(attention), report_(report) {}

  void MatchesReference(const BatchShape& shape, ListKind kind, bool ordered) {
    HostBatch batch = MakeBatch(shape, random_);
    FillLists(kind, random_, batch);
    if (ordered) OrderByLength(batch);
    ExpectAttention(
        batch, NameOf(shape, kind, ordered),
        [&](const PrefillAttentionArgs& args) {
          return attention_.Run(args, nullptr);
        },
        report_);
  }

  void RefusesByName() {
    HostBatch batch = MakeBatch({64, 2, 2, {{0, 3}}}, random_);
    FillLists(ListKind::kDense, random_, batch);
    const DeviceBatch device(batch);
    const auto expect = [&](const char* name, const auto& change) {
      PrefillAttentionArgs args = device.Args();
      change(args);
      const LaunchStatus status = attention_.Run(args, nullptr);
      report_.Expect(status.message().find(name) != std::string::npos,
                     "%s is not named: %s", name, status.message().c_str());
    };
    expect("head_dim is 96", [](auto& args) { args.kv.head_dim = 96; });
    expect("heads is 3", [](auto& args) { args.heads = 3; });
    expect("kv_heads is 0", [](auto& args) { args.kv.kv_heads = 0; });
    expect("pages is 2147483647", [](auto& args) {
      args.kv.pages = std::numeric_limits<std::int32_t>::max();
    });
    expect("query_rows is 0", [](auto& args) { args.query_rows = 0; });
    expect("query_stride is 248", [](auto& args) { args.query_stride = 248; });
    expect("query_stride is 260", [](auto& args) { args.query_stride = 260; });
    expect("output_stride is 0", [](auto& args) { args.output_stride = 0; });
    expect("scale is 0", [](auto& args) { args.scale = 0; });
    expect("aligned", [](auto& args) { args.kv.values = nullptr; });
    PrefillAttentionArgs nothing;
    report_.Expect(attention_.Run(nothing, nullptr).ok(),
                   "a batch without tiles is no error");
  }

  void DoesWithoutLse() {
    HostBatch batch = MakeBatch({128, 1, 2, {{100, 70}}}, random_);
    FillLists(ListKind::kDense, random_, batch);
    DeviceBatch device(batch);
    device.PoisonResults();
    PrefillAttentionArgs args = device.Args();
    report_.Expect(attention_.Run(args, nullptr).ok(), "run with LSE");
    const auto expected = device.output.Download();
    device.PoisonResults();
    args.lse = nullptr;
    report_.Expect(attention_.Run(args, nullptr).ok(), "run without LSE");
    report_.Expect(device.output.Download() == expected,
                   "without LSE the output is another");
  }

 private:
  std::string NameOf(const BatchShape& shape, ListKind kind,
                     bool ordered) const {
    return std::string(attention_.kernel() == PrefillKernel::kHopper
                           ? "hopper"
                           : "portable") +
           " d" + std::to_string(shape.head_dim) + " group " +
           std::to_string(shape.group) + " slices " +
           std::to_string(shape.slices.size()) + " " + cuda::NameOf(kind) +
           (ordered ? " ordered" : "");
  }

  const PrefillAttention& attention_;
  TestReport& report_;
  std::mt19937 random_{20261129};
};

void TestKernel(const PrefillAttention& attention, TestReport& report) {
  PrefillAttentionTest test(attention, report);
  for (int head_dim : {64, 128}) {
    for (int group : {1, 3, 4, 8}) {
      for (ListKind kind : kAllListKinds) {
        test.MatchesReference({head_dim, 2, group, kOddSlices}, kind, false);
      }
      test.MatchesReference({head_dim, 3, group, kOddSlices}, ListKind::kRandom,
                            true);
    }
    for (ListKind kind : kAllListKinds) {
      test.MatchesReference({head_dim, 1, 3, kLongSlices}, kind, false);
    }
    // More items than multiprocessors: blocks take several each.
    test.MatchesReference({head_dim, 8, 4, {{0, 700}, {333, 200}}},
                          ListKind::kRandom, true);
  }
  test.RefusesByName();
  test.DoesWithoutLse();
}

}  // namespace
}  // namespace sparseserve::cuda

int main() {
  return sparseserve::cuda::TestPrefillKernels("prefill_attention_test",
                                               sparseserve::cuda::TestKernel);
}
