#include "tests/bench/machine_limits.h"

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <map>
#include <memory>
#include <oneapi/dnnl/dnnl.hpp>
#include <thread>
#include <utility>
#include <vector>

#include "engine/base/thread_pool.h"

// From OpenMP's runtime, which oneDNN brings.
extern "C" void omp_set_num_threads(int threads);

namespace sparseserve {
namespace {

double Seconds() {
  return std::chrono::duration<double>(
             std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

// Seconds of `run(worker)` on all threads at once, the best of a few.
template <typename Run>
double BestTime(int threads, const Run& run) {
  constexpr int kTrials = 5;
  ThreadPool pool(threads);
  double best = 1e30;
  for (int trial = 0; trial < kTrials; ++trial) {
    const double start = Seconds();
    pool.ParallelFor(threads, 1, [&](int64_t begin, int64_t, int) {
      run(static_cast<int>(begin));
    });
    best = std::min(best, Seconds() - start);
  }
  return best;
}

}  // namespace

double ReadBandwidth(int threads) {
  static std::map<int, double> measured;
  if (measured.contains(threads)) return measured[threads];
  constexpr int64_t kWords = int64_t{16} << 20;
  std::vector<std::vector<uint64_t>> data(threads,
                                          std::vector<uint64_t>(kWords, 1));
  std::vector<uint64_t> sums(threads);
  const double seconds = BestTime(threads, [&](int worker) {
    const uint64_t* words = data[worker].data();
    uint64_t sum[16] = {};
    for (int64_t i = 0; i < kWords; i += 16) {
      for (int j = 0; j < 16; ++j) sum[j] += words[i + j];
    }
    for (const uint64_t s : sum) sums[worker] += s;
  });
  measured[threads] = threads * kWords * sizeof(uint64_t) / seconds;
  return measured[threads];
}

double SquareProductRate(bool bf16, int threads) {
  static std::map<std::pair<bool, int>, double> measured;
  const auto key = std::make_pair(bf16, threads);
  if (measured.contains(key)) return measured[key];
  constexpr int64_t kSide = 2048;
  using dnnl::memory;
  const auto type = bf16 ? memory::data_type::bf16 : memory::data_type::f32;
  omp_set_num_threads(1);
  dnnl::engine engine(dnnl::engine::kind::cpu, 0);
  const memory::desc input({kSide, kSide}, type, memory::format_tag::ab);
  const memory::desc any({kSide, kSide}, type, memory::format_tag::any);
  const memory::desc output({kSide, kSide}, memory::data_type::f32,
                            memory::format_tag::ab);
  const dnnl::matmul::primitive_desc description({input, any, output}, engine);
  const dnnl::matmul product(description);
  struct Operands {
    memory input, weights, output;
    dnnl::stream stream;
  };
  std::vector<Operands> operands;
  for (int worker = 0; worker < threads; ++worker) {
    operands.push_back({memory(input, engine),
                        memory(description.weights_desc(), engine),
                        memory(output, engine), dnnl::stream(engine)});
    for (const memory& operand :
         {operands.back().input, operands.back().weights}) {
      std::fill_n(static_cast<std::byte*>(operand.get_data_handle()),
                  operand.get_desc().get_size(), std::byte{0});
    }
  }
  const double seconds = BestTime(threads, [&](int worker) {
    omp_set_num_threads(1);
    product.execute(operands[worker].stream,
                    {{DNNL_ARG_SRC, operands[worker].input},
                     {DNNL_ARG_WEIGHTS, operands[worker].weights},
                     {DNNL_ARG_DST, operands[worker].output}});
  });
  measured[key] = threads * 2.0 * kSide * kSide * kSide / seconds;
  return measured[key];
}

}  // namespace sparseserve
