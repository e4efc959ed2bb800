#include "engine/backend/cuda/step_launches.h"

#include <cuda_runtime_api.h>

#include <string>
#include <utility>

#include "engine/backend/cuda/cuda_status.h"
#include "engine/base/status_macros.h"

namespace sparseserve::cuda {
namespace {

constexpr size_t kMostGraphs = 128;
constexpr size_t kMostSeen = 4096;

// splitmix64's finaliser (Steele et al., "Fast splittable pseudorandom number
// generators", 2014).
uint64_t Mix(uint64_t x) {
  x += 0x9e3779b97f4a7c15u;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

}  // namespace

StepLaunches::~StepLaunches() {
  for (const Graph& graph : graphs_) cudaGraphExecDestroy(graph.executable);
}

void StepLaunches::Begin(bool gathers) {
  gathers_ = gathers;
  signature_ = 0;
  gathered_.clear();
}

absl::Status StepLaunches::Add(std::initializer_list<uint64_t> signature,
                               Launch launch) {
  if (!gathers_) {
    RETURN_IF_ERROR(arrays_.Flush());
    const LaunchStatus status = launch(stream_);
    return status.ok() ? absl::OkStatus()
                       : absl::InternalError(status.message());
  }
  for (const uint64_t value : signature) signature_ = Mix(signature_ ^ value);
  gathered_.push_back(std::move(launch));
  return absl::OkStatus();
}

absl::Status StepLaunches::Flush() {
  RETURN_IF_ERROR(arrays_.Flush());
  if (gathered_.empty()) return absl::OkStatus();
  const uint64_t signature = signature_;
  absl::Status status;
  if (const auto found = graph_of_.find(signature); found != graph_of_.end()) {
    graphs_.splice(graphs_.begin(), graphs_, found->second);
    status = Replay(graphs_.front());
  } else if (seen_.contains(signature)) {
    status = Capture(signature);
  } else {
    if (seen_.size() >= kMostSeen) seen_.clear();
    seen_.insert(signature);
    status = LaunchGathered();
  }
  gathered_.clear();
  signature_ = 0;
  return status;
}

absl::Status StepLaunches::LaunchGathered() {
  for (const Launch& launch : gathered_) {
    const LaunchStatus status = launch(stream_);
    if (!status.ok()) return absl::InternalError(status.message());
  }
  return absl::OkStatus();
}

absl::Status StepLaunches::Capture(uint64_t signature) {
  RETURN_IF_ERROR(CudaStatus(
      cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal),
      "capturing a step"));
  const absl::Status launched = LaunchGathered();
  cudaGraph_t graph = nullptr;
  const absl::Status captured =
      CudaStatus(cudaStreamEndCapture(stream_, &graph), "capturing a step");
  RETURN_IF_ERROR(launched);
  RETURN_IF_ERROR(captured);
  cudaGraphExec_t executable = nullptr;
  const absl::Status made = CudaStatus(
      cudaGraphInstantiate(&executable, graph, 0), "making a step's graph");
  cudaGraphDestroy(graph);
  RETURN_IF_ERROR(made);
  if (graphs_.size() >= kMostGraphs) {
    cudaGraphExecDestroy(graphs_.back().executable);
    graph_of_.erase(graphs_.back().signature);
    graphs_.pop_back();
  }
  graphs_.push_front({signature, executable});
  graph_of_[signature] = graphs_.begin();
  return Replay(graphs_.front());
}

absl::Status StepLaunches::Replay(const Graph& graph) {
  ++replays_;
  return CudaStatus(cudaGraphLaunch(graph.executable, stream_),
                    "running a step's graph");
}

}  // namespace sparseserve::cuda
