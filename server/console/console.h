#pragma once

#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "server/console/http_listener.h"
#include "server/console/service_history.h"
#include "server/metrics/metrics.h"

namespace sparseserve {

// What the metrics port serves, read-only: `/metrics` for scrapers, `/`, a page
// for people, and `/console.json`, what that page and `sparseserve top` show.
// Reads the metrics once a second, and for each request. Everything happens on
// the listener's thread.
class Console {
 public:
  struct Options {
    std::string address;              // as HttpListener has it
    std::function<absl::Time()> now;  // never steps back
    std::function<absl::Time()> wall_clock;
  };

  // Serves when it returns. `metrics` must outlive it. Errors are those of
  // HttpListener::Start.
  static absl::StatusOr<std::unique_ptr<Console>> Start(Options options,
                                                        const Metrics& metrics);

  int port() const { return listener_->port(); }

 private:
  Console(Options options, const Metrics& metrics);

  HttpReply Get(const std::string& path) const;
  void Sample();

  const Options options_;
  const Metrics& metrics_;
  ServiceHistory history_;  // the listener's thread's
  std::unique_ptr<HttpListener> listener_;
};

}  // namespace sparseserve
