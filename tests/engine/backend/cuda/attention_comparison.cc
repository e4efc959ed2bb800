#include "tests/engine/backend/cuda/attention_comparison.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <thread>
#include <vector>

#include "tests/engine/backend/cuda/bfloat16_bits.h"

namespace sparseserve::cuda {
namespace {

struct Results {
  std::vector<std::uint16_t> output;
  std::vector<float> lse;
};

Results Run(DeviceBatch& batch, const std::string& name,
            const RunAttention& run, TestReport& report) {
  batch.PoisonResults();
  const LaunchStatus status = run(batch.Args());
  report.Expect(status.ok(), "%s: %s", name.c_str(), status.message().c_str());
  report.ExpectOk(cudaDeviceSynchronize(), name.c_str());
  return {batch.output.Download(), batch.lse.Download()};
}

// The reference of every row and head, [rows, heads]; rows of no tile stay
// empty. Worked out by all cores.
std::vector<ReferenceRow> References(const HostBatch& batch) {
  std::vector<ReferenceRow> references(batch.rows * batch.heads());
  const auto work_out = [&](int first, int step) {
    for (int tile = first; tile < batch.lists.tiles(); tile += step) {
      const std::int32_t* fields = &batch.lists.tile_fields[tile * 4];
      for (int row = 0; row < fields[2]; ++row) {
        for (int head = 0; head < batch.heads(); ++head) {
          references[(fields[1] + row) * std::int64_t{batch.heads()} + head] =
              ReferenceAttention(batch, tile, row, head);
        }
      }
    }
  };
  const int threads = std::max(1u, std::thread::hardware_concurrency());
  std::vector<std::thread> workers;
  for (int i = 0; i < threads; ++i) workers.emplace_back(work_out, i, threads);
  for (std::thread& worker : workers) worker.join();
  return references;
}

void Compare(const HostBatch& batch, const std::string& name,
             const Results& results, TestReport& report) {
  const int width = batch.shape.head_dim;
  const std::vector<ReferenceRow> references = References(batch);
  double worst = 0, worst_lse = 0;
  for (std::size_t i = 0; i < references.size(); ++i) {
    const ReferenceRow& expected = references[i];
    const std::uint16_t* output = &results.output[i * width];
    if (expected.output.empty()) {
      std::uint32_t lse;
      std::memcpy(&lse, &results.lse[i], 4);
      const bool untouched =
          lse == 0xffffffff &&
          std::all_of(output, output + width,
                      [](std::uint16_t bits) { return bits == 0xffff; });
      report.Expect(untouched, "%s: row %zu of no tile was written",
                    name.c_str(), i / batch.heads());
      continue;
    }
    for (int column = 0; column < width; ++column) {
      const double error =
          std::abs(FromBfloat16(output[column]) - expected.output[column]) /
          OutputTolerance(expected.output[column], expected.magnitude[column]);
      // NaN becomes infinite, so that it is neither lost nor within.
      worst = std::max(worst, std::isnan(error) ? INFINITY : error);
    }
    const double error = results.lse[i] == expected.lse
                             ? 0
                             : std::abs(results.lse[i] - expected.lse) /
                                   LseTolerance(expected.lse);
    worst_lse = std::max(worst_lse, std::isnan(error) ? INFINITY : error);
  }
  report.Expect(worst <= 1, "%s: output off by %.3g of what is allowed",
                name.c_str(), worst);
  report.Expect(worst_lse <= 1, "%s: LSE off by %.3g of what is allowed",
                name.c_str(), worst_lse);
  std::printf("%-52s output %.2f, LSE %.2f of what is allowed\n", name.c_str(),
              worst, worst_lse);
}

}  // namespace

void ExpectAttention(const HostBatch& batch, const std::string& name,
                     const RunAttention& run, TestReport& report) {
  DeviceBatch device(batch);
  const Results first = Run(device, name, run, report);
  const Results second = Run(device, name, run, report);
  report.Expect(first.output == second.output &&
                    std::memcmp(first.lse.data(), second.lse.data(),
                                first.lse.size() * sizeof(float)) == 0,
                "%s: a second run gave other bits", name.c_str());
  Compare(batch, name, first, report);
}

}  // namespace sparseserve::cuda
