#pragma once

#include <fstream>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "server/calibration/head_choice.h"
#include "server/calibration/text_measurement.h"

namespace sparseserve {

// What was measured so far, in memory and, so that a calibration that is
// interrupted can go on, in a file of JSON lines that grows with each
// measurement. What is read back is what was added, to the last digit. For one
// thread.
class MeasurementStore {
 public:
  // `purpose` says what the measurements are of: a file of something else is
  // refused with FAILED_PRECONDITION. What is there is read; a last line that
  // was cut is dropped. An empty path keeps nothing. INVALID_ARGUMENT names the
  // line of a file that is none of ours; UNAVAILABLE if it cannot be written.
  static absl::StatusOr<std::unique_ptr<MeasurementStore>> Open(
      const std::string& path, const std::string& purpose);

  // Null if there is none.
  const TextMeasurement* FindText(const std::string& key) const;
  const std::vector<HeadOption>* FindOptions(const std::string& key) const;
  int size() const { return static_cast<int>(texts_.size() + options_.size()); }

  // UNAVAILABLE if the file cannot be written.
  absl::Status AddText(const std::string& key, TextMeasurement measured);
  absl::Status AddOptions(const std::string& key,
                          std::vector<HeadOption> options);

 private:
  MeasurementStore() = default;

  absl::Status ReadLine(const std::string& line);
  absl::Status Append(const std::string& line);

  std::string path_;
  std::map<std::string, TextMeasurement> texts_;
  std::map<std::string, std::vector<HeadOption>> options_;
  std::ofstream file_;
};

}  // namespace sparseserve
