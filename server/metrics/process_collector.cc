#include "server/metrics/process_collector.h"

#include <dirent.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <iterator>
#include <limits>
#include <string>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "prometheus/client_metric.h"
#include "prometheus/metric_type.h"

namespace sparseserve {
namespace {

std::string ReadFile(const std::string& path) {
  std::ifstream file(path);
  return {std::istreambuf_iterator<char>(file), {}};
}

// Number `index` of a space-separated text; 0 if there is none.
double Field(absl::string_view text, size_t index) {
  const std::vector<absl::string_view> fields =
      absl::StrSplit(text, ' ', absl::SkipEmpty());
  double value = 0;
  if (index >= fields.size() || !absl::SimpleAtod(fields[index], &value)) {
    return 0;
  }
  return value;
}

double BootTimeSeconds() {
  const std::string stat = ReadFile("/proc/stat");
  for (absl::string_view line : absl::StrSplit(stat, '\n')) {
    if (absl::StartsWith(line, "btime ")) return Field(line, 1);
  }
  return 0;
}

double StartTimeSeconds() {
  const std::string stat = ReadFile("/proc/self/stat");
  // Field 22 of proc(5), counted after the name, which may contain spaces.
  const size_t name_end = stat.rfind(')');
  if (name_end == std::string::npos) return 0;
  const double ticks = Field(absl::string_view(stat).substr(name_end + 1), 19);
  return BootTimeSeconds() + ticks / static_cast<double>(sysconf(_SC_CLK_TCK));
}

double CpuSeconds() {
  rusage usage{};
  if (getrusage(RUSAGE_SELF, &usage) != 0) return 0;
  const auto seconds = [](const timeval& t) {
    return static_cast<double>(t.tv_sec) +
           1e-6 * static_cast<double>(t.tv_usec);
  };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

double ResidentBytes() {
  return Field(ReadFile("/proc/self/statm"), 1) *
         static_cast<double>(sysconf(_SC_PAGESIZE));
}

double OpenFileDescriptors() {
  DIR* folder = opendir("/proc/self/fd");
  if (folder == nullptr) return 0;
  int entries = 0;
  while (readdir(folder) != nullptr) ++entries;
  closedir(folder);
  // ".", ".." and the descriptor of the folder itself.
  return std::max(entries - 3, 0);
}

double MaxFileDescriptors() {
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return 0;
  return static_cast<double>(limit.rlim_cur);
}

prometheus::MetricFamily Family(std::string name, std::string help,
                                prometheus::MetricType type, double value) {
  prometheus::ClientMetric metric;
  if (type == prometheus::MetricType::Counter) {
    metric.counter.value = value;
  } else {
    metric.gauge.value = value;
  }
  return {std::move(name), std::move(help), type, {std::move(metric)}};
}

}  // namespace

ProcessCollector::ProcessCollector()
    : start_time_seconds_(StartTimeSeconds()) {}

std::vector<prometheus::MetricFamily> ProcessCollector::Collect() const {
  using prometheus::MetricType;
  std::vector<prometheus::MetricFamily> families;
  families.push_back(Family("process_cpu_seconds_total",
                            "User and system CPU time spent.",
                            MetricType::Counter, CpuSeconds()));
  families.push_back(Family("process_resident_memory_bytes",
                            "Resident memory size.", MetricType::Gauge,
                            ResidentBytes()));
  families.push_back(Family("process_open_fds",
                            "Number of open file descriptors.",
                            MetricType::Gauge, OpenFileDescriptors()));
  families.push_back(Family("process_max_fds",
                            "Most file descriptors that may be open.",
                            MetricType::Gauge, MaxFileDescriptors()));
  families.push_back(Family("process_start_time_seconds",
                            "Start time since the Unix epoch.",
                            MetricType::Gauge, start_time_seconds_));
  return families;
}

int64_t MemoryLimitBytes() {
  int64_t limit = static_cast<int64_t>(sysconf(_SC_PHYS_PAGES)) *
                  static_cast<int64_t>(sysconf(_SC_PAGESIZE));
  // Version 2 hierarchy: "0::/path". A group's ancestors limit it too.
  std::string path;
  const std::string groups = ReadFile("/proc/self/cgroup");
  for (absl::string_view line : absl::StrSplit(groups, '\n')) {
    if (absl::StartsWith(line, "0::/")) path = std::string(line.substr(3));
  }
  while (true) {
    const std::string folder = "/sys/fs/cgroup" + (path == "/" ? "" : path);
    int64_t bytes = 0;
    if (absl::SimpleAtoi(ReadFile(folder + "/memory.max"), &bytes)) {
      limit = std::min(limit, bytes);
    }
    const size_t slash = path.rfind('/');
    if (slash == std::string::npos) return limit;
    path.resize(slash);
  }
}

}  // namespace sparseserve
