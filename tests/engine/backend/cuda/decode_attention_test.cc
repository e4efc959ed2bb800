// Decode attention against a reference in double precision: head widths, group
// sizes, lengths, every kind of list, work dealt out to few and to many thread
// blocks, a CUDA graph whose lists change; whatever no list shows is NaN.

#include "engine/backend/cuda/decode_attention.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <limits>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "tests/engine/backend/cuda/bfloat16_bits.h"
#include "tests/engine/backend/cuda/decode_batch.h"
#include "tests/engine/backend/cuda/test_report.h"

namespace sparseserve::cuda {
namespace {

struct Results {
  std::vector<std::uint16_t> output;
  std::vector<float> lse;

  bool HasBitsOf(const Results& other) const {
    return output == other.output &&
           std::memcmp(lse.data(), other.lse.data(),
                       lse.size() * sizeof(float)) == 0;
  }
};

// [sequences, heads], worked out by all cores.
std::vector<ReferenceRow> References(const HostDecodeBatch& batch) {
  const int rows = batch.sequences() * batch.heads();
  std::vector<ReferenceRow> references(rows);
  const int threads = std::max(1u, std::thread::hardware_concurrency());
  std::vector<std::thread> workers;
  for (int i = 0; i < threads; ++i) {
    workers.emplace_back([&, i] {
      for (int row = i; row < rows; row += threads) {
        references[row] =
            ReferenceDecode(batch, row / batch.heads(), row % batch.heads());
      }
    });
  }
  for (std::thread& worker : workers) worker.join();
  return references;
}

// A share of what is allowed; NaN is infinite, so that it is neither lost nor
// within.
double ShareOf(double allowed, double actual, double expected) {
  if (actual == expected) return 0;
  const double share = std::abs(actual - expected) / allowed;
  return std::isnan(share) ? INFINITY : share;
}

void Compare(const HostDecodeBatch& batch, const std::string& name,
             const std::vector<ReferenceRow>& references,
             const Results& results, TestReport& report) {
  const int width = batch.shape.head_dim;
  double worst = 0, worst_lse = 0;
  for (std::size_t row = 0; row < references.size(); ++row) {
    const ReferenceRow& expected = references[row];
    for (int column = 0; column < width; ++column) {
      worst = std::max(
          worst, ShareOf(OutputTolerance(expected.output[column],
                                         expected.magnitude[column]),
                         FromBfloat16(results.output[row * width + column]),
                         expected.output[column]));
    }
    worst_lse = std::max(worst_lse, ShareOf(LseTolerance(expected.lse),
                                            results.lse[row], expected.lse));
  }
  report.Expect(worst <= 1, "%s: output off by %.3g of what is allowed",
                name.c_str(), worst);
  report.Expect(worst_lse <= 1, "%s: LSE off by %.3g of what is allowed",
                name.c_str(), worst_lse);
  std::printf("%-52s output %.2f, LSE %.2f of what is allowed\n", name.c_str(),
              worst, worst_lse);
}

struct NamedAttention {
  std::string name;
  std::unique_ptr<DecodeAttention> attention;
};

class DecodeAttentionTest {
 public:
  DecodeAttentionTest(std::vector<NamedAttention> attentions,
                      TestReport& report)
      : attentions_(std::move(attentions)), report_(report) {}

  // However many thread blocks share the work, and twice the same bits.
  void MatchesReference(const DecodeShape& shape, DecodeListKind kind) {
    HostDecodeBatch batch = MakeDecodeBatch(shape, random_);
    FillDecodeLists(kind, random_, batch);
    PoisonUnlisted(batch);
    DeviceDecodeBatch device(batch);
    const std::vector<ReferenceRow> references = References(batch);
    for (const NamedAttention& named : attentions_) {
      const std::string name = NameOf(shape, kind) + " " + named.name;
      const auto run = [&] {
        device.PoisonResults();
        const LaunchStatus status =
            named.attention->Run(device.Args(), nullptr);
        report_.Expect(status.ok(), "%s: %s", name.c_str(),
                       status.message().c_str());
        report_.ExpectOk(cudaDeviceSynchronize(), name.c_str());
        return Results{device.output.Download(), device.lse.Download()};
      };
      const Results first = run();
      report_.Expect(first.HasBitsOf(run()), "%s: a second run gave other bits",
                     name.c_str());
      Compare(batch, name, references, first, report_);
    }
  }

  // The graph is captured once; lists move between dense and sparse.
  void FollowsListsInGraph() {
    HostDecodeBatch batch =
        MakeDecodeBatch({128, 2, 4, {1000, 64, 0, 3111}}, random_);
    FillDecodeLists(DecodeListKind::kNone, random_, batch);
    DeviceDecodeBatch device(batch);
    cudaStream_t stream;
    cudaGraph_t graph;
    cudaGraphExec_t executable;
    cudaStreamCreate(&stream);
    cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal);
    const LaunchStatus status =
        attentions_[0].attention->Run(device.Args(), stream);
    report_.Expect(status.ok(), "%s", status.message().c_str());
    report_.ExpectOk(cudaStreamEndCapture(stream, &graph), "capture");
    report_.ExpectOk(cudaGraphInstantiate(&executable, graph, 0), "graph");
    for (DecodeListKind kind : {DecodeListKind::kAll, DecodeListKind::kSparse,
                                DecodeListKind::kMixed}) {
      HostDecodeBatch other = batch;
      FillDecodeLists(kind, random_, other);
      PoisonUnlisted(other);
      device.Replace(other);
      device.PoisonResults();
      cudaDeviceSynchronize();
      report_.ExpectOk(cudaGraphLaunch(executable, stream), "graph");
      report_.ExpectOk(cudaStreamSynchronize(stream), "graph");
      Compare(other, std::string("graph ") + cuda::NameOf(kind),
              References(other),
              {device.output.Download(), device.lse.Download()}, report_);
    }
    cudaGraphExecDestroy(executable);
    cudaGraphDestroy(graph);
    cudaStreamDestroy(stream);
  }

  void RefusesByName() {
    HostDecodeBatch batch = MakeDecodeBatch({64, 2, 2, {3}}, random_);
    FillDecodeLists(DecodeListKind::kAll, random_, batch);
    const DeviceDecodeBatch device(batch);
    const DecodeAttention& attention = *attentions_[0].attention;
    const auto expect = [&](const char* name, const auto& change) {
      DecodeAttentionArgs args = device.Args();
      change(args);
      const LaunchStatus status = attention.Run(args, nullptr);
      report_.Expect(status.message().find(name) != std::string::npos,
                     "%s is not named: %s", name, status.message().c_str());
    };
    expect("head_dim is 96", [](auto& args) { args.kv.head_dim = 96; });
    expect("heads is 3", [](auto& args) { args.heads = 3; });
    expect("heads is 34", [](auto& args) { args.heads = 34; });
    expect("kv_heads is 0", [](auto& args) { args.kv.kv_heads = 0; });
    expect("pages is 0", [](auto& args) { args.kv.pages = 0; });
    expect("sequences is -1", [](auto& args) { args.sequences = -1; });
    expect("sequences is 2147483647", [](auto& args) {
      args.sequences = std::numeric_limits<std::int32_t>::max();
    });
    expect("query_stride is 248", [](auto& args) { args.query_stride = 248; });
    expect("output_stride is 260",
           [](auto& args) { args.output_stride = 260; });
    expect("scale is 0", [](auto& args) { args.scale = 0; });
    expect("aligned", [](auto& args) { args.kv.values = nullptr; });
    expect("block_counts",
           [](auto& args) { args.lists.block_counts = nullptr; });
    report_.Expect(attention.Run({}, nullptr).ok(),
                   "a batch without sequences is no error");
    std::unique_ptr<DecodeAttention> none;
    const LaunchStatus status = DecodeAttention::Create(0, &none);
    report_.Expect(
        status.message().find("thread_blocks is 0") != std::string::npos,
        "thread_blocks is not named: %s", status.message().c_str());
  }

  void DoesWithoutLse() {
    HostDecodeBatch batch = MakeDecodeBatch({128, 1, 2, {1700}}, random_);
    FillDecodeLists(DecodeListKind::kFull, random_, batch);
    DeviceDecodeBatch device(batch);
    const DecodeAttention& attention = *attentions_[0].attention;
    device.PoisonResults();
    DecodeAttentionArgs args = device.Args();
    report_.Expect(attention.Run(args, nullptr).ok(), "run with LSE");
    const auto expected = device.output.Download();
    device.PoisonResults();
    args.lse = nullptr;
    report_.Expect(attention.Run(args, nullptr).ok(), "run without LSE");
    report_.Expect(device.output.Download() == expected,
                   "without LSE the output is another");
  }

 private:
  static std::string NameOf(const DecodeShape& shape, DecodeListKind kind) {
    return "d" + std::to_string(shape.head_dim) + " group " +
           std::to_string(shape.group) + " sequences " +
           std::to_string(shape.lengths.size()) + " longest " +
           std::to_string(
               *std::max_element(shape.lengths.begin(), shape.lengths.end())) +
           " " + cuda::NameOf(kind);
  }

  const std::vector<NamedAttention> attentions_;
  TestReport& report_;
  std::mt19937 random_{20261129};
};

// As many thread blocks as the device runs; all work in one; few, whose shares
// end within pairs; more than there are blocks.
std::vector<NamedAttention> CreateAll(bool brief, TestReport& report) {
  std::vector<NamedAttention> all;
  all.push_back({"as many as fit", nullptr});
  report.Expect(DecodeAttention::Create(&all.back().attention).ok(), "create");
  for (int thread_blocks :
       brief ? std::vector<int>{7} : std::vector<int>{1, 7, 3000}) {
    all.push_back({std::to_string(thread_blocks), nullptr});
    const LaunchStatus status =
        DecodeAttention::Create(thread_blocks, &all.back().attention);
    report.Expect(status.ok(), "%s", status.message().c_str());
  }
  return all;
}

// `brief`: two group sizes, no long sequence.
int RunAll(bool brief) {
  std::unique_ptr<DecodeAttention> best;
  if (const LaunchStatus status = DecodeAttention::Create(&best);
      !status.ok()) {
    std::printf("skipped: %s\n", status.message().c_str());
    return kSkipped;
  }
  TestReport report;
  DecodeAttentionTest test(CreateAll(brief, report), report);
  for (int head_dim : {64, 128}) {
    for (int group :
         brief ? std::vector<int>{3, 16} : std::vector<int>{1, 3, 4, 8, 16}) {
      for (DecodeListKind kind : kAllDecodeListKinds) {
        test.MatchesReference(
            {head_dim, 2, group, {1, 63, 64, 65, 0, 777, 2500}}, kind);
      }
    }
    for (int length : {1, 63, 64, 65, 130, brief ? 600 : 9001}) {
      test.MatchesReference({head_dim, 1, 4, {length}}, DecodeListKind::kAll);
      test.MatchesReference({head_dim, 3, 4, {length}},
                            DecodeListKind::kSparse);
    }
    // More pairs than threads count at once, most of one block.
    test.MatchesReference({head_dim, 8, 4, std::vector<int>(70, 40)},
                          DecodeListKind::kMixed);
  }
  test.FollowsListsInGraph();
  test.RefusesByName();
  test.DoesWithoutLse();
  return report.Finish("decode_attention_test");
}

}  // namespace
}  // namespace sparseserve::cuda

// With --short: fewer sizes, for tools under which launches take long.
int main(int argc, char** argv) {
  const bool brief = argc == 2 && std::strcmp(argv[1], "--short") == 0;
  if (argc > 1 && !brief) {
    std::fprintf(stderr, "usage: decode_attention_test [--short]\n");
    return 2;
  }
  return sparseserve::cuda::RunAll(brief);
}
