#pragma once

#include <cstdint>
#include <functional>
#include <memory>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "server/metrics/metrics.h"
#include "server/rpc/call_record.h"
#include "server/rpc/served_model.h"
#include "server/rpc/token_stream.h"
#include "server/scheduling/request_queue.h"
#include "sparseserve/v1/inference_service.pb.h"

namespace sparseserve {

// The way from a parsed message into the queue: converts, tokenises, pushes.
// Thread-safe.
class Admission {
 public:
  struct Dependencies {  // all outlive this
    const ServedModel& model;
    RequestQueue& queue;
    Metrics& metrics;
    std::function<absl::Time()> clock;
    std::function<uint64_t()> draw_seed;
  };
  struct Options {
    absl::Duration default_deadline = absl::Minutes(10);
  };
  Admission(Options options, Dependencies dependencies);

  // Queues what `options` ask for; the output goes to `stream`. Completes
  // `record`, which nobody writes to any more once the request is queued. An
  // error if the request is refused: `stream` is untouched.
  absl::Status Admit(const v1::GenerateOptions& options, CallRecord& record,
                     std::shared_ptr<TokenStream> stream);

 private:
  // The request but for its sink and flag.
  absl::StatusOr<std::unique_ptr<Request>> Convert(
      const v1::GenerateOptions& options, CallRecord& record) const;

  const Options options_;
  const Dependencies d_;
};

}  // namespace sparseserve
