#pragma once

#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

namespace sparseserve::cuda {

// A graph of launches on a stream of its own, to be timed. Not copied,
// destroyed with its stream.
class LaunchGraph {
 public:
  LaunchGraph() { cudaStreamCreate(&stream_); }
  LaunchGraph(const LaunchGraph&) = delete;
  LaunchGraph& operator=(const LaunchGraph&) = delete;
  ~LaunchGraph() {
    if (executable_ != nullptr) cudaGraphExecDestroy(executable_);
    cudaStreamDestroy(stream_);
  }

  // Of what `queue(stream)` queues; false if it says so, or the capture fails.
  // REQUIRES: called once.
  template <class Queue>
  bool Capture(const Queue& queue) {
    cudaGraph_t graph = nullptr;
    cudaStreamBeginCapture(stream_, cudaStreamCaptureModeGlobal);
    bool captured = queue(stream_);
    if (cudaStreamEndCapture(stream_, &graph) != cudaSuccess) return false;
    captured =
        captured && cudaGraphInstantiate(&executable_, graph, 0) == cudaSuccess;
    cudaGraphDestroy(graph);
    return captured;
  }
  void Launch() { cudaGraphLaunch(executable_, stream_); }
  bool Wait() { return cudaStreamSynchronize(stream_) == cudaSuccess; }

  // Milliseconds of each repetition after the warm-ups, ascending; empty if one
  // failed.
  std::vector<float> Time(int warm_ups, int repetitions) {
    cudaEvent_t begin, end;
    cudaEventCreate(&begin);
    cudaEventCreate(&end);
    std::vector<float> times;
    for (int i = 0; i < warm_ups + repetitions; ++i) {
      cudaEventRecord(begin, stream_);
      Launch();
      cudaEventRecord(end, stream_);
      if (!Wait()) return {};
      float time = 0;
      cudaEventElapsedTime(&time, begin, end);
      if (i >= warm_ups) times.push_back(time);
    }
    cudaEventDestroy(begin);
    cudaEventDestroy(end);
    std::sort(times.begin(), times.end());
    return times;
  }

  // SM and memory clock in MHz, power in W and temperature in C while the graph
  // keeps the device busy, as nvidia-smi prints them.
  std::string ClocksUnder(double graph_ms) {
    const int launches = std::clamp(static_cast<int>(200 / graph_ms), 1, 1000);
    for (int i = 0; i < launches; ++i) Launch();
    std::string line = "unknown";
    if (FILE* pipe =
            popen("nvidia-smi --query-gpu=clocks.sm,clocks.mem,power.draw,"
                  "temperature.gpu --format=csv,noheader,nounits -i 0",
                  "r")) {
      char buffer[256] = "";
      if (std::fgets(buffer, sizeof buffer, pipe) != nullptr) {
        line = std::string(buffer, std::strcspn(buffer, "\n"));
      }
      pclose(pipe);
    }
    Wait();
    return line;
  }

 private:
  cudaStream_t stream_ = nullptr;
  cudaGraphExec_t executable_ = nullptr;
};

}  // namespace sparseserve::cuda
