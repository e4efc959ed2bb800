#pragma once

#include <cstdio>
#include <functional>
#include <memory>

#include "engine/backend/cuda/prefill_attention.h"
#include "tests/engine/backend/cuda/test_report.h"

namespace sparseserve::cuda {

using TestPrefill = std::function<void(const PrefillAttention&, TestReport&)>;

inline void TestPrefillKernel(PrefillKernel kernel, const TestPrefill& test,
                              TestReport& report) {
  std::unique_ptr<PrefillAttention> attention;
  const LaunchStatus created = PrefillAttention::Create(kernel, &attention);
  report.Expect(created.ok(), "%s", created.message().c_str());
  if (created.ok()) test(*attention, report);
}

// Tests the portable kernel and, if it is another, the best that this GPU has.
// The exit code of `program`.
inline int TestPrefillKernels(const char* program, const TestPrefill& test) {
  std::unique_ptr<PrefillAttention> best;
  if (!PrefillAttention::Create(&best).ok()) {
    std::printf("skipped: no GPU that a kernel is made for\n");
    return kSkipped;
  }
  TestReport report;
  TestPrefillKernel(PrefillKernel::kPortable, test, report);
  if (best->kernel() != PrefillKernel::kPortable) {
    TestPrefillKernel(best->kernel(), test, report);
  }
  return report.Finish(program);
}

}  // namespace sparseserve::cuda
