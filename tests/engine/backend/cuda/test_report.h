#pragma once

#include <cuda_runtime_api.h>

#include <cstdarg>
#include <cstdio>
#include <cstring>

namespace sparseserve::cuda {

// Counts what holds and what does not. GPU machines have a compiler and a
// driver, seldom a test framework.
class TestReport {
 public:
  // Prints the message where `holds` is false, up to 20 times.
  __attribute__((format(printf, 3, 4))) void Expect(bool holds,
                                                    const char* message, ...) {
    ++checks_;
    if (holds) return;
    if (++failures_ > 20) return;
    std::va_list arguments;
    va_start(arguments, message);
    std::printf("FAILED: ");
    std::vprintf(message, arguments);
    std::printf("\n");
    va_end(arguments);
  }
  // Whether a call of the runtime, or a kernel before it, went well.
  void ExpectOk(cudaError_t error, const char* what) {
    Expect(error == cudaSuccess, "%s: %s", what, cudaGetErrorString(error));
  }
  long failures() const { return failures_; }

  // Prints the sum; the exit code of the program. None checked is a failure.
  int Finish(const char* name) const {
    std::printf("%s: %ld checks, %ld failed\n", name, checks_, failures_);
    return failures_ == 0 && checks_ > 0 ? 0 : 1;
  }

 private:
  long checks_ = 0;
  long failures_ = 0;
};

// Which of its cases a program runs: --short leaves out the larger shapes,
// --races all but a few small ones, each access of which is looked at.
enum class Cases { kAll, kShort, kRaces };
inline Cases CasesOf(int argc, char** argv) {
  if (argc < 2) return Cases::kAll;
  return std::strcmp(argv[1], "--races") == 0 ? Cases::kRaces : Cases::kShort;
}

// What a program returns that cannot run here: ctest takes it for skipped.
inline constexpr int kSkipped = 77;

// Whether the current device is a Hopper GPU; says so if not.
inline bool HasHopper() {
  int device = 0, major = 0;
  if (cudaGetDevice(&device) != cudaSuccess ||
      cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor,
                             device) != cudaSuccess ||
      major != 9) {
    std::printf("skipped: no GPU of compute capability 9.0\n");
    return false;
  }
  return true;
}

}  // namespace sparseserve::cuda
