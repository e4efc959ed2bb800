#pragma once

#include <functional>
#include <optional>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "engine/base/mutex.h"
#include "server/metrics/metrics.h"
#include "server/rpc/call_record.h"
#include "server/rpc/request_log.h"
#include "server/rpc/token_stream.h"

namespace sparseserve {

// Sees every call begin and end: counts it, logs it, and knows when none is
// left. Thread-safe; not for the serving thread, for it words the log's lines.
class CallObserver {
 public:
  struct Dependencies {  // all outlive this
    Metrics& metrics;
    RequestLog& log;
    std::function<absl::Time()> clock;       // of the records; never steps
    std::function<absl::Time()> wall_clock;  // dates the log
  };
  explicit CallObserver(Dependencies dependencies);

  void Started(const CallRecord& record);
  // Of a call that generates nothing.
  void Finished(const CallRecord& record, const absl::Status& status);
  void Finished(const CallRecord& record, const TokenStream::Summary& summary);

  // Returns once no call is under way, or at `deadline`.
  void WaitUntilIdle(absl::Time deadline);

 private:
  void CountRequest(const CallRecord& record, const absl::Status& status);
  void Finish(const CallRecord& record, const absl::Status& status,
              std::optional<RequestLogEntry::Generation> generation);

  const Dependencies d_;
  Mutex mu_;
  CondVar idle_;
  int calls_ ABSL_GUARDED_BY(mu_) = 0;
};

}  // namespace sparseserve
