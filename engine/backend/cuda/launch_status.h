#pragma once

#include <string>
#include <utility>

namespace sparseserve::cuda {

// Whether work was handed to the device, and if not, why: the message names the
// value and its limit, or what the driver said. Kernels, their tests and their
// benchmarks build where Abseil is not; the backend makes this an absl::Status.
class [[nodiscard]] LaunchStatus {
 public:
  LaunchStatus() = default;  // OK
  // REQUIRES: a message.
  static LaunchStatus Error(std::string message) {
    LaunchStatus status;
    status.message_ = std::move(message);
    return status;
  }

  bool ok() const { return message_.empty(); }
  const std::string& message() const { return message_; }

 private:
  std::string message_;
};

}  // namespace sparseserve::cuda
