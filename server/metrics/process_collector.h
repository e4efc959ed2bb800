#pragma once

#include <cstdint>
#include <vector>

#include "prometheus/collectable.h"
#include "prometheus/metric_family.h"

namespace sparseserve {

// The process_* metrics that Prometheus client libraries share, read from the
// kernel at every scrape. What cannot be read is 0.
class ProcessCollector : public prometheus::Collectable {
 public:
  ProcessCollector();
  std::vector<prometheus::MetricFamily> Collect() const override;

 private:
  const double start_time_seconds_;
};

// The least of physical memory and the limits of the process's control groups.
int64_t MemoryLimitBytes();

}  // namespace sparseserve
