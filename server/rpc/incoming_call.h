#pragma once

#include <string>

#include "absl/status/status.h"
#include "google/protobuf/message.h"
#include "grpcpp/server_context.h"
#include "grpcpp/support/byte_buffer.h"
#include "server/rpc/call_record.h"

namespace sparseserve {

// What request metadata and the deadline say; the record's times are those of
// `arrival`'s clock. A malformed x-request-id is replaced; SettleRequestId()
// refuses it.
CallRecord RecordOf(const grpc::CallbackServerContext& context,
                    const std::string& method, absl::Time arrival);

// OK with `record.request_id` settled, or INVALID_ARGUMENT if `field_value`
// (options.request_id, may be empty) or the metadata's x-request-id is not a
// request id.
absl::Status SettleRequestId(const grpc::CallbackServerContext& context,
                             const std::string& field_value,
                             CallRecord& record);

// Sets `record.metadata_target`; INVALID_ARGUMENT names a key whose value is no
// target.
absl::Status SettleMetadataTarget(const grpc::CallbackServerContext& context,
                                  CallRecord& record);

absl::Status ParseRequest(const grpc::ByteBuffer& bytes,
                          google::protobuf::Message& message);
grpc::ByteBuffer Serialize(const google::protobuf::Message& message);

// Adds the trailers of every call and makes its status.
grpc::Status EndStatus(const absl::Status& status, const CallRecord& record,
                       grpc::CallbackServerContext& context);

}  // namespace sparseserve
