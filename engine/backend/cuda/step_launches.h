#pragma once

#include <cstdint>
#include <functional>
#include <initializer_list>
#include <list>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "absl/status/status.h"
#include "engine/backend/cuda/launch_status.h"
#include "engine/backend/cuda/step_arrays.h"

struct CUstream_st;     // what cudaStream_t points to
struct CUgraphExec_st;  // what cudaGraphExec_t points to

namespace sparseserve::cuda {

// The launches of a step. A step of few rows is bound by how fast the host
// launches: its launches are gathered, and if the same ones were seen before
// they run as a CUDA graph. The same means the same signature, which has all
// that a launch is given by value; what lies in arrays on the device may
// differ. Other steps launch at once. One thread.
class StepLaunches {
 public:
  using Launch = std::function<LaunchStatus(CUstream_st*)>;

  // `arrays` and the stream outlive this.
  StepLaunches(CUstream_st* stream, StepArrays& arrays)
      : stream_(stream), arrays_(arrays) {}
  StepLaunches(const StepLaunches&) = delete;
  StepLaunches& operator=(const StepLaunches&) = delete;
  ~StepLaunches();

  // REQUIRES: nothing of the last step is under way.
  void Begin(bool gathers);
  // `signature`: the launch's kind and all that it depends on besides arrays.
  absl::Status Add(std::initializer_list<uint64_t> signature, Launch launch);
  // Queues what was gathered, behind the arrays that it reads.
  absl::Status Flush();

  // Steps that ran as a graph, for tests.
  int64_t replays() const { return replays_; }

 private:
  struct Graph {
    uint64_t signature = 0;
    CUgraphExec_st* executable = nullptr;
  };

  absl::Status LaunchGathered();
  // As a graph that is kept, the longest unused one in its place if there are
  // too many.
  absl::Status Capture(uint64_t signature);
  absl::Status Replay(const Graph& graph);

  CUstream_st* stream_;
  StepArrays& arrays_;
  bool gathers_ = false;
  uint64_t signature_ = 0;
  std::vector<Launch> gathered_;
  std::list<Graph> graphs_;  // the last used first
  std::unordered_map<uint64_t, std::list<Graph>::iterator> graph_of_;
  // Signatures seen once: a graph costs more than it saves in one step.
  std::unordered_set<uint64_t> seen_;
  int64_t replays_ = 0;
};

}  // namespace sparseserve::cuda
