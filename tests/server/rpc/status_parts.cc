#include "tests/server/rpc/status_parts.h"

#include "google/rpc/status.pb.h"
#include "gtest/gtest.h"
#include "server/rpc/status_details.h"

namespace sparseserve::testing {

StatusParts PartsOf(const grpc::Status& status) {
  StatusParts parts;
  parts.code = status.error_code();
  parts.message = status.error_message();
  // gRPC's own errors come without details.
  if (status.error_details().empty()) return parts;
  google::rpc::Status packed;
  EXPECT_TRUE(packed.ParseFromString(status.error_details()));
  EXPECT_EQ(packed.code(), status.error_code());
  EXPECT_EQ(packed.message(), status.error_message());
  parts.details = packed.details_size();
  for (const auto& any : packed.details()) {
    google::rpc::ErrorInfo info;
    google::rpc::BadRequest bad_request;
    google::rpc::RequestInfo request;
    google::rpc::RetryInfo retry;
    google::rpc::ResourceInfo resource;
    if (any.UnpackTo(&info)) {
      parts.reason = info.reason();
      parts.domain = info.domain();
      parts.metadata = {info.metadata().begin(), info.metadata().end()};
    } else if (any.UnpackTo(&bad_request)) {
      for (const auto& violation : bad_request.field_violations()) {
        parts.fields.push_back(violation.field());
        parts.descriptions.push_back(violation.description());
      }
    } else if (any.UnpackTo(&request)) {
      parts.request_id = request.request_id();
    } else if (any.UnpackTo(&retry)) {
      parts.retry = retry;
    } else if (any.UnpackTo(&resource)) {
      parts.resource = resource;
    } else if (any.Is<google::rpc::QuotaFailure>()) {
      parts.has_quota_failure = true;
    } else {
      ADD_FAILURE() << "unknown detail " << any.type_url();
    }
  }
  return parts;
}

StatusParts PartsOf(const absl::Status& status) {
  return PartsOf(ToGrpcStatus(status, "test"));
}

}  // namespace sparseserve::testing
