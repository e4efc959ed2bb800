#pragma once

#include <cstdint>
#include <functional>
#include <memory>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "server/metrics/metrics.h"
#include "server/rpc/call_record.h"
#include "server/rpc/served_model.h"
#include "server/rpc/target_conversion.h"
#include "server/rpc/token_stream.h"
#include "server/rpc/tokenizer_worker.h"
#include "server/scheduling/request_queue.h"
#include "sparseserve/v1/inference_service.pb.h"

namespace sparseserve {

// The way from a parsed message into the queue: converts, has the text
// tokenised by the worker, pushes. Thread-safe.
class Admission {
 public:
  struct Dependencies {  // all outlive this
    const ServedModel& model;
    TokenizerWorker& worker;
    RequestQueue& queue;
    Metrics& metrics;
    std::function<absl::Time()> clock;
    std::function<uint64_t()> draw_seed;
  };
  struct Options {
    absl::Duration default_deadline = absl::Minutes(10);
    // Of generations that some head follows a pattern other than dense in, as
    // server_config.proto has it.
    double recall_sample_share = 0;
    DefaultTargets default_targets;
  };
  Admission(Options options, Dependencies dependencies);

  // Completes a request that has its prompt, or says why it is refused. Runs on
  // the worker's thread unless there is no text.
  using Completion = std::function<absl::Status(Request&)>;

  // Queues what `options` ask for, or refuses the stream, now or once the
  // prompt is encoded. Completes `record`, and uses it no more when it returns;
  // the call can end at any moment from then on. Does no long work.
  void Admit(v1::GenerateOptions options, CallRecord& record,
             std::shared_ptr<TokenStream> stream,
             Completion complete = nullptr);

  // Ends a call that was not taken, and counts it.
  void Refuse(const absl::Status& status, TokenStream& stream);

 private:
  // A checked request whose prompt is still to be encoded.
  struct Pending {
    v1::GenerateOptions options;
    std::unique_ptr<Request> request;
    std::shared_ptr<TokenStream> stream;
    Completion complete;  // may be null
  };

  // All that can be checked without encoding the prompt.
  absl::StatusOr<std::unique_ptr<Request>> Convert(
      const v1::GenerateOptions& options, CallRecord& record) const;
  // What the queue would answer before the text is encoded.
  Refusal WouldRefuse(const Request& request) const;
  // Whether the recall of this one is measured.
  bool DrawsRecall(const Request& request) const;
  // On the worker's thread unless there is no text.
  void Complete(Pending& pending);
  absl::Status EncodeAndPush(Pending& pending);

  const Options options_;
  const Dependencies d_;
};

}  // namespace sparseserve
