#pragma once

#include <functional>
#include <string>

#include "tests/engine/backend/cuda/attention_batch.h"
#include "tests/engine/backend/cuda/test_report.h"

namespace sparseserve::cuda {

// Queues attention over the arguments.
using RunAttention = std::function<LaunchStatus(const PrefillAttentionArgs&)>;

// Runs twice over poisoned results: both times the same bits, every row of a
// tile near the reference, every other row untouched.
void ExpectAttention(const HostBatch& batch, const std::string& name,
                     const RunAttention& run, TestReport& report);

}  // namespace sparseserve::cuda
