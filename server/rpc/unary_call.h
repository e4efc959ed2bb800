#pragma once

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "grpcpp/server_context.h"
#include "grpcpp/support/byte_buffer.h"
#include "grpcpp/support/server_callback.h"
#include "server/rpc/call_observer.h"
#include "server/rpc/call_record.h"
#include "server/rpc/incoming_call.h"

namespace sparseserve {

// A call that is answered on the spot. `response` lives as long as gRPC needs.
struct UnaryCall {
  grpc::CallbackServerContext& context;
  const grpc::ByteBuffer& request;
  grpc::ByteBuffer& response;
  CallRecord record;
};

// Parses the request if the call may go on, lets `answer` make the response,
// sends that or the error.
template <typename RequestMessage, typename ResponseMessage>
grpc::ServerUnaryReactor* AnswerCall(
    UnaryCall call, CallObserver& observer,
    absl::FunctionRef<absl::StatusOr<ResponseMessage>(const RequestMessage&)>
        answer) {
  observer.Started(call.record);
  RequestMessage request;
  absl::Status status = call.record.access;
  if (status.ok()) status = SettleRequestId(call.context, "", call.record);
  if (status.ok()) status = ParseRequest(call.request, request);
  if (status.ok()) {
    absl::StatusOr<ResponseMessage> response = answer(request);
    status = response.status();
    if (response.ok()) call.response = Serialize(*response);
  }
  grpc::ServerUnaryReactor* const reactor = call.context.DefaultReactor();
  reactor->Finish(EndStatus(status, call.record, call.context));
  observer.Finished(call.record, status);
  return reactor;
}

}  // namespace sparseserve
