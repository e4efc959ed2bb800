// Sampling against a reference in double precision: random rows with every
// combination of parameters at six vocabularies, ties, rows without a finite
// logit or a token to draw beside others, counts of draws, a CUDA graph.
//
//   --short  few rows of few vocabularies

#include "engine/backend/cuda/device_sampler.h"

#include <cuda_runtime_api.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <limits>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "tests/engine/backend/cuda/device_array.h"
#include "tests/engine/backend/cuda/sampling_reference.h"
#include "tests/engine/backend/cuda/test_report.h"

namespace sparseserve::cuda {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

bool HasSameBits(const std::vector<SampledRow>& a,
                 const std::vector<SampledRow>& b) {
  return std::memcmp(a.data(), b.data(), a.size() * sizeof(SampledRow)) == 0;
}

class DeviceSamplerTest {
 public:
  explicit DeviceSamplerTest(TestReport& report) : report_(report) {
    report_.ExpectOk(cudaStreamCreate(&stream_), "stream");
  }
  ~DeviceSamplerTest() { cudaStreamDestroy(stream_); }

  // All rows in batches of up to 64, twice each.
  void MatchesReference(int vocab_size, int rows) {
    std::mt19937 random(vocab_size);
    int exact = 0;
    for (int begin = 0; begin < rows; begin += 64) {
      const int count = std::min(64, rows - begin);
      std::vector<SamplingCase> cases;
      for (int i = 0; i < count; ++i) {
        // Rows of few tests pass through the combinations, too.
        const int number = rows >= 256 ? begin + i : (begin + i) * 37;
        cases.push_back(RandomSamplingCase(vocab_size, number, random));
      }
      exact += Compare(cases);
    }
    std::printf(
        "vocabulary %d: %d of %d rows as the reference, the others "
        "within rounding of a border\n",
        vocab_size, exact, rows);
    report_.Expect(exact >= rows - 2 - rows / 200, "%d: %d of %d exact",
                   vocab_size, exact, rows);
  }

  // Each harms its own row only.
  void RowsFailAlone(int vocab_size) {
    std::mt19937 random(3);
    std::vector<SamplingCase> cases;
    for (int i = 0; i < 12; ++i) {
      cases.push_back(RandomSamplingCase(vocab_size, 16 * i + 7, random));
    }
    cases[1].logits[vocab_size - 1] = NAN;
    cases[2].logits[0] = kInfinity;
    cases[4].logits[vocab_size / 2] = -kInfinity;
    std::fill(cases[5].logits.begin(), cases[5].logits.end(), NAN);
    cases[6].params.temperature = 0;
    cases[6].logits[vocab_size / 3] = NAN;
    for (const int row : {7, 9}) {
      cases[row].banned.clear();
      for (int i = 0; i < vocab_size; ++i) cases[row].banned.push_back(i);
    }
    cases[9].params.temperature = 0;
    cases[10].params.wants_token = false;
    Compare(cases);
  }

  void DrawsByWeight() {
    constexpr int kTokens = 40, kRows = 512, kBatches = 40;
    std::mt19937 random(5);
    SamplingCase row = RandomSamplingCase(kTokens, 0, random);
    row.params = RowSampling();
    for (int i = 0; i < kTokens; ++i) row.logits[i] = 0.05f * (i % 17);
    double total = 0;
    for (const float logit : row.logits) total += std::exp(logit);
    std::unique_ptr<DeviceSampler> sampler = Create(kTokens, kRows);
    if (!sampler) return;
    std::vector<float> logits;
    for (int i = 0; i < kRows; ++i) {
      logits.insert(logits.end(), row.logits.begin(), row.logits.end());
    }
    const DeviceArray<float> device(logits);
    std::vector<int> counts(kTokens, 0);
    for (int batch = 0; batch < kBatches; ++batch) {
      std::vector<RowSampling> rows(kRows, row.Row());
      for (int i = 0; i < kRows; ++i) {
        rows[i].seed = 77 + i;
        rows[i].draw_index = batch;
      }
      for (const SampledRow& result :
           Run(*sampler, rows, device.data(), kTokens)) {
        if (result.token >= 0 && result.token < kTokens) {
          ++counts[result.token];
        }
      }
    }
    double chi_squared = 0;
    for (int i = 0; i < kTokens; ++i) {
      const double wanted = std::exp(row.logits[i]) / total * kRows * kBatches;
      chi_squared += (counts[i] - wanted) * (counts[i] - wanted) / wanted;
    }
    // 39 degrees of freedom: above 76 once in 2,500 for a right sampler.
    report_.Expect(chi_squared < 76, "chi squared is %.1f", chi_squared);
    std::printf("chi squared of %d draws: %.1f, 39 degrees of freedom\n",
                kRows * kBatches, chi_squared);
  }

  // Parameters change between replays.
  void FollowsParametersInGraph() {
    constexpr int kTokens = 3000;
    std::mt19937 random(9);
    std::unique_ptr<DeviceSampler> sampler = Create(kTokens, 2);
    if (!sampler) return;
    DeviceArray<float> device(2 * kTokens);
    cudaGraph_t graph = nullptr;
    cudaGraphExec_t executable = nullptr;
    cudaStreamBeginCapture(stream_, cudaStreamCaptureModeGlobal);
    const bool ok = sampler->Run(device.data(), kTokens, 2, stream_).ok();
    cudaStreamEndCapture(stream_, &graph);
    report_.Expect(ok, "captured");
    report_.ExpectOk(cudaGraphInstantiate(&executable, graph, 0), "graph");
    for (int step = 0; step < 8; ++step) {
      SamplingCase row = RandomSamplingCase(kTokens, 37 * step, random);
      std::vector<float> logits = row.logits;
      logits.insert(logits.end(), row.logits.begin(), row.logits.end());
      device.Upload(logits);
      const RowSampling packed = row.Row();
      // The second row is one that nobody packed.
      report_.Expect(sampler->Pack(&packed, 1).ok(), "pack");
      report_.Expect(sampler->Upload(stream_).ok(), "upload");
      report_.ExpectOk(cudaGraphLaunch(executable, stream_), "replay");
      const auto results = Results(*sampler, 2);
      const ReferenceSample expected = SamplingReference(row).Sample();
      CheckRow(row, results[0], expected, "in a graph");
      report_.Expect(results[1].status == SampleStatus::kIdle, "idle row");
    }
    cudaGraphExecDestroy(executable);
    cudaGraphDestroy(graph);
  }

  void RefusesByName() {
    std::unique_ptr<DeviceSampler> sampler;
    ExpectNamed(DeviceSampler::Create({0, 1, 10}, &sampler), "vocab_size");
    ExpectNamed(DeviceSampler::Create({300000, 1, 10}, &sampler), "300000");
    ExpectNamed(DeviceSampler::Create({10, 0, 10}, &sampler), "max_rows");
    report_.Expect(DeviceSampler::Create({10, 2, 10}, &sampler).ok(), "create");
    const auto refused = [&](const char* name, auto change) {
      RowSampling rows[2];
      change(rows[1]);
      const LaunchStatus status = sampler->Pack(rows, 2);
      ExpectNamed(status, name);
      ExpectNamed(status, "row 1");
    };
    const std::int32_t token = 10;
    const std::vector<std::int32_t> many(11, 3);
    const TokenBias bias = {1, 2e6f};
    refused("temperature", [](RowSampling& r) { r.temperature = -1; });
    refused("temperature", [](RowSampling& r) { r.temperature = NAN; });
    refused("top_k", [](RowSampling& r) { r.top_k = -1; });
    refused("top_p", [](RowSampling& r) { r.top_p = 0; });
    refused("min_p", [](RowSampling& r) { r.min_p = 1.5f; });
    refused("logprobs", [](RowSampling& r) { r.logprobs = 11; });
    refused("repetition_penalty",
            [](RowSampling& r) { r.repetition_penalty = 0; });
    refused("banned is 10", [&](RowSampling& r) {
      r.banned = &token;
      r.banned_tokens = 1;
    });
    refused("logit_bias", [&](RowSampling& r) {
      r.logit_bias = &bias;
      r.logit_biases = 1;
    });
    refused("listed tokens", [&](RowSampling& r) {
      r.banned = many.data();
      r.banned_tokens = 11;
    });
    const DeviceArray<float> logits(20);
    ExpectNamed(sampler->Run(logits.data(), 9, 2, stream_), "stride");
    ExpectNamed(sampler->Run(logits.data(), 10, 3, stream_), "rows is 3");
    ExpectNamed(sampler->Run(nullptr, 10, 1, stream_), "logits");
  }

 private:
  std::unique_ptr<DeviceSampler> Create(int vocab_size, int rows) {
    std::unique_ptr<DeviceSampler> sampler;
    const LaunchStatus status =
        DeviceSampler::Create({vocab_size, rows, 1 << 20}, &sampler);
    report_.Expect(status.ok(), "%s", status.message().c_str());
    return sampler;
  }
  void ExpectNamed(const LaunchStatus& status, const char* name) {
    report_.Expect(status.message().find(name) != std::string::npos,
                   "'%s' does not name %s", status.message().c_str(), name);
  }
  std::vector<SampledRow> Results(const DeviceSampler& sampler, int rows) {
    std::vector<SampledRow> results(rows);
    report_.ExpectOk(cudaStreamSynchronize(stream_), "sampling");
    report_.ExpectOk(
        cudaMemcpy(results.data(), sampler.results(), rows * sizeof(SampledRow),
                   cudaMemcpyDeviceToHost),
        "results");
    return results;
  }
  std::vector<SampledRow> Run(DeviceSampler& sampler,
                              const std::vector<RowSampling>& rows,
                              const float* logits, std::int64_t stride) {
    const int count = static_cast<int>(rows.size());
    for (const LaunchStatus& status :
         {sampler.Pack(rows.data(), count), sampler.Upload(stream_),
          sampler.Run(logits, stride, count, stream_)}) {
      report_.Expect(status.ok(), "%s", status.message().c_str());
    }
    return Results(sampler, count);
  }

  // How many rows have the reference's very token.
  int Compare(const std::vector<SamplingCase>& cases) {
    const int rows = static_cast<int>(cases.size());
    const int vocab_size = static_cast<int>(cases[0].logits.size());
    const int stride = vocab_size + 3;
    std::vector<float> logits(std::size_t(rows) * stride, NAN);
    std::vector<RowSampling> params;
    for (int i = 0; i < rows; ++i) {
      std::copy(cases[i].logits.begin(), cases[i].logits.end(),
                logits.begin() + std::size_t(i) * stride);
      params.push_back(cases[i].Row());
    }
    const DeviceArray<float> device(logits);
    std::unique_ptr<DeviceSampler> sampler = Create(vocab_size, rows);
    if (!sampler) return 0;
    const auto results = Run(*sampler, params, device.data(), stride);
    const auto again = Run(*sampler, params, device.data(), stride);
    report_.Expect(HasSameBits(results, again), "%d: bits differ", vocab_size);
    const std::vector<ReferenceSample> expected = References(cases);
    int exact = 0;
    for (int i = 0; i < rows; ++i) {
      const std::string name = "vocabulary " + std::to_string(vocab_size) +
                               ", row " + std::to_string(i);
      if (!cases[i].params.wants_token) {
        report_.Expect(results[i].status == SampleStatus::kIdle, "%s",
                       name.c_str());
        continue;
      }
      CheckRow(cases[i], results[i], expected[i], name.c_str());
      exact += results[i].token == expected[i].token ? 1 : 0;
    }
    return exact;
  }
  static std::vector<ReferenceSample> References(
      const std::vector<SamplingCase>& cases) {
    std::vector<ReferenceSample> references(cases.size());
    std::atomic<std::size_t> next = 0;
    std::vector<std::thread> workers;
    for (unsigned i = 0; i < std::max(1u, std::thread::hardware_concurrency());
         ++i) {
      workers.emplace_back([&] {
        for (std::size_t row; (row = next++) < cases.size();) {
          references[row] = SamplingReference(cases[row]).Sample();
        }
      });
    }
    for (std::thread& worker : workers) worker.join();
    return references;
  }
  void CheckRow(const SamplingCase& row, const SampledRow& result,
                const ReferenceSample& expected, const char* name) {
    report_.Expect(result.status == expected.status, "%s: status %d, not %d",
                   name, static_cast<int>(result.status),
                   static_cast<int>(expected.status));
    if (expected.status != SampleStatus::kOk ||
        result.status != SampleStatus::kOk) {
      return;
    }
    report_.Expect(expected.near.count(result.token) > 0,
                   "%s: token %d, not %d (temperature %g, top_k %d, top_p %g, "
                   "min_p %g)",
                   name, result.token, expected.token, row.params.temperature,
                   row.params.top_k, row.params.top_p, row.params.min_p);
    if (row.params.logprobs < 0 || result.token < 0 ||
        result.token >= static_cast<int>(row.logits.size())) {
      return;
    }
    report_.Expect(
        std::abs(result.logprob - expected.logprobs[result.token]) <= 1e-5,
        "%s: logprob %g, not %g", name, result.logprob,
        expected.logprobs[result.token]);
    report_.Expect(result.reported == row.params.logprobs, "%s: %d reported",
                   name, result.reported);
    for (int i = 0; i < row.params.logprobs; ++i) {
      const int token = expected.alternatives[i];
      report_.Expect(result.alternatives[i].token == token,
                     "%s: alternative %d is %d, not %d", name, i,
                     result.alternatives[i].token, token);
      report_.Expect(
          std::abs(result.alternatives[i].logprob - expected.logprobs[token]) <=
              1e-5,
          "%s: alternative %d has %g", name, i, result.alternatives[i].logprob);
    }
  }

  TestReport& report_;
  cudaStream_t stream_ = nullptr;
};

int RunAll(bool brief) {
  std::unique_ptr<DeviceSampler> sampler;
  if (const LaunchStatus status = DeviceSampler::Create({7, 1, 0}, &sampler);
      !status.ok()) {
    std::printf("skipped: %s\n", status.message().c_str());
    return kSkipped;
  }
  TestReport report;
  DeviceSamplerTest test(report);
  test.MatchesReference(7, brief ? 256 : 2048);
  test.MatchesReference(1000, brief ? 256 : 2048);
  if (!brief) {
    for (const int vocab_size : {49152, 128256}) {
      test.MatchesReference(vocab_size, 256);
    }
    for (const int vocab_size : {151936, 256000}) {
      test.MatchesReference(vocab_size, 64);
    }
  }
  test.RowsFailAlone(1000);
  if (!brief) test.RowsFailAlone(128256);
  test.DrawsByWeight();
  test.FollowsParametersInGraph();
  test.RefusesByName();
  return report.Finish("device_sampler_test");
}

}  // namespace
}  // namespace sparseserve::cuda

int main(int argc, char** argv) {
  const bool brief = argc == 2 && std::strcmp(argv[1], "--short") == 0;
  if (argc > 1 && !brief) {
    std::fprintf(stderr, "usage: device_sampler_test [--short]\n");
    return 2;
  }
  return sparseserve::cuda::RunAll(brief);
}
