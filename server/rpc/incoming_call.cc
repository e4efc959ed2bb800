#include "server/rpc/incoming_call.h"

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "engine/base/str_cat.h"
#include "grpc/support/time.h"
#include "server/rpc/field_errors.h"
#include "server/rpc/message_parser.h"
#include "server/rpc/request_id.h"
#include "server/rpc/status_details.h"
#include "server/rpc/target_conversion.h"

namespace sparseserve {
namespace {

constexpr char kRequestIdKey[] = "x-request-id";

std::string_view Metadata(const grpc::CallbackServerContext& context,
                          const char* key) {
  const auto found = context.client_metadata().find(key);
  if (found == context.client_metadata().end()) return {};
  return {found->second.data(), found->second.size()};
}

}  // namespace

CallRecord RecordOf(const grpc::CallbackServerContext& context,
                    const std::string& method, absl::Time arrival) {
  CallRecord record;
  record.method = method;
  const std::string_view id = Metadata(context, kRequestIdKey);
  record.request_id = IsRequestId(id) ? std::string(id) : NewRequestId();
  record.traceparent = TraceparentOf(Metadata(context, "traceparent"));
  record.arrival = arrival;
  // Not context.deadline(): its nanoseconds wrap where callers give centuries.
  const gpr_timespec deadline =
      gpr_convert_clock_type(context.raw_deadline(), GPR_CLOCK_REALTIME);
  if (gpr_time_cmp(deadline, gpr_inf_future(GPR_CLOCK_REALTIME)) != 0) {
    // gRPC knows how much time is left and tells it by the wall clock.
    const absl::Time time = absl::FromUnixSeconds(deadline.tv_sec) +
                            absl::Nanoseconds(deadline.tv_nsec);
    record.deadline = arrival + (time - absl::Now());
  }
  return record;
}

absl::Status SettleRequestId(const grpc::CallbackServerContext& context,
                             const std::string& field_value,
                             CallRecord& record) {
  constexpr char kForm[] = "1 to 128 printable ASCII characters, no spaces";
  FieldErrors errors;
  const std::string_view metadata = Metadata(context, kRequestIdKey);
  if (!metadata.empty() && !IsRequestId(metadata)) {
    errors.Add(kRequestIdKey, StrCat(metadata.size(), " bytes"), kForm);
  }
  if (!field_value.empty() && !IsRequestId(field_value)) {
    errors.Add("options.request_id", field_value, kForm);
  } else if (!field_value.empty()) {
    record.request_id = field_value;
  }
  return errors.ToStatus();
}

absl::Status SettleMetadataTarget(const grpc::CallbackServerContext& context,
                                  CallRecord& record) {
  FieldErrors errors;
  record.metadata_target =
      TargetOfMetadata(Metadata(context, kFirstTokenKey),
                       Metadata(context, kOutputTokenKey), errors);
  return errors.ToStatus();
}

absl::Status ParseRequest(const grpc::ByteBuffer& bytes,
                          google::protobuf::Message& message) {
  grpc::Slice slice;
  if (!bytes.DumpToSingleSlice(&slice).ok()) {
    return absl::InternalError("the request's bytes could not be read");
  }
  return ParseRequest(
      std::string_view(reinterpret_cast<const char*>(slice.begin()),
                       slice.size()),
      message);
}

grpc::ByteBuffer Serialize(const google::protobuf::Message& message) {
  grpc::Slice slice(message.ByteSizeLong());
  message.SerializeWithCachedSizesToArray(const_cast<uint8_t*>(slice.begin()));
  return grpc::ByteBuffer(&slice, 1);
}

grpc::Status EndStatus(const absl::Status& status, const CallRecord& record,
                       grpc::CallbackServerContext& context) {
  context.AddTrailingMetadata(kRequestIdKey, record.request_id);
  if (const auto delay = RetryDelayOf(status)) {
    context.AddTrailingMetadata("grpc-retry-pushback-ms",
                                StrCat(absl::ToInt64Milliseconds(*delay)));
  }
  return ToGrpcStatus(status, record.request_id);
}

}  // namespace sparseserve
