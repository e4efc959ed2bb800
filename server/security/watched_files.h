#pragma once

#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "engine/base/mutex.h"

namespace sparseserve {

// Looks again and again whether files were replaced, on a thread of its own,
// and has new contents taken over. Follows symbolic links, as Kubernetes swaps
// them. Files that belong together are one set, which is loaded whole.
class WatchedFiles {
 public:
  static constexpr size_t kMostBytes = 4 << 20;  // of a file

  struct Set {
    std::vector<std::string> paths;
    // Takes the files' contents, in the order of `paths`, or refuses them and
    // keeps what it had. Called at the start, then on the thread.
    std::function<absl::Status(const std::vector<std::string>&)> load;
    // Told of each later load: OK, or why it was refused or a file could not be
    // read. Contents that were refused are not tried again.
    std::function<void(const absl::Status&)> on_reload;
  };

  // Loads all; the error of one that fails names its file.
  static absl::StatusOr<std::unique_ptr<WatchedFiles>> Start(
      std::vector<Set> sets, absl::Duration interval);
  ~WatchedFiles();

  // Looks now, on the caller's thread.
  void Look();

 private:
  explicit WatchedFiles(std::vector<Set> sets);
  void Run(absl::Duration interval);

  const std::vector<Set> sets_;
  Mutex mu_;
  CondVar changed_;
  // By set: when, how large and which its files were.
  std::vector<std::string> versions_ ABSL_GUARDED_BY(mu_);
  bool stop_ ABSL_GUARDED_BY(mu_) = false;
  std::thread thread_;
};

}  // namespace sparseserve
