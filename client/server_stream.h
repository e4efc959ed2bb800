#pragma once

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "client/client_call.h"
#include "google/protobuf/message_lite.h"
#include "grpcpp/channel.h"
#include "grpcpp/completion_queue.h"
#include "grpcpp/generic/generic_stub.h"

namespace sparseserve {

// A call that sends one message and receives any number. Unlike a generated
// stub's reader it tells a message that cannot be parsed from the end of the
// stream, after which that reader would wait for messages nobody takes. One
// thread; the call is cancelled if it is dropped before Finish.
class ServerStream {
 public:
  // `method` is a full path, "/package.Service/Method".
  // REQUIRES: ValidateCallOptions(options) is OK.
  ServerStream(const std::shared_ptr<grpc::Channel>& channel,
               const std::string& method,
               const google::protobuf::MessageLite& request,
               const CallOptions& options);
  ~ServerStream();

  ServerStream(const ServerStream&) = delete;
  ServerStream& operator=(const ServerStream&) = delete;

  // Waits for the next message; false after the last one. A message that cannot
  // be parsed cancels the call.
  bool Read(google::protobuf::MessageLite& reply);

  void Cancel() { call_.context().TryCancel(); }

  // How the call ended. Once, after Read was false or Cancel.
  absl::Status Finish();

 private:
  // Waits for the one operation in flight; true if it succeeded.
  bool Await();

  ClientCall call_;
  grpc::CompletionQueue queue_;
  std::unique_ptr<grpc::GenericClientAsyncReaderWriter> stream_;
  bool open_ = false;
  bool unreadable_ = false;
  bool finished_ = false;
};

}  // namespace sparseserve
