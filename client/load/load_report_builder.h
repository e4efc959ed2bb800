#pragma once

#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "client/load/histogram_comparison.h"
#include "client/load/load_recorder.h"
#include "client/load/load_report.pb.h"

namespace sparseserve {

// What was measured in `elapsed`; the fields that say what the run was are the
// caller's to fill.
client_load::LoadReport BuildLoadReport(const LoadRecorder& recorder,
                                        absl::Duration elapsed);

// Whether the generator was so late that its own delay shows in what it
// measured: the 99th percentile of its lag is above 10 ms.
bool GeneratorLagged(const LatencyHistogram& lag);

client_load::ServerComparison BuildServerComparison(
    const absl::StatusOr<std::vector<ComparedQuantile>>& compared);

}  // namespace sparseserve
