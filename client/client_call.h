#pragma once

#include <functional>
#include <stop_token>

#include "absl/status/status.h"
#include "client/call_options.h"
#include "grpcpp/client_context.h"
#include "grpcpp/support/status.h"

namespace sparseserve {

// INVALID_ARGUMENT for metadata that gRPC would abort the program over.
absl::Status ValidateCallOptions(const CallOptions& options);

// The context of one call: its deadline, headers and the link from the caller's
// stop token to the call. Lives as long as the call; one thread uses it, while
// any may stop it.
class ClientCall {
 public:
  // REQUIRES: ValidateCallOptions(options) is OK.
  explicit ClientCall(const CallOptions& options);

  ClientCall(const ClientCall&) = delete;
  ClientCall& operator=(const ClientCall&) = delete;

  grpc::ClientContext& context() { return context_; }

  // What the caller gets for how the call ended; details as a payload.
  absl::Status Result(const grpc::Status& status) const;

 private:
  grpc::ClientContext context_;
  std::stop_token stop_;
  // After context_, which it cancels: destroyed first.
  std::stop_callback<std::function<void()>> on_stop_;
};

}  // namespace sparseserve
