#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "google/rpc/error_details.pb.h"
#include "grpcpp/support/status.h"

namespace sparseserve::testing {

// What a caller finds in an error.
struct StatusParts {
  grpc::StatusCode code = grpc::StatusCode::OK;
  std::string message;
  std::string reason;
  std::string domain;
  std::map<std::string, std::string> metadata;
  std::vector<std::string> fields;  // of BadRequest
  std::vector<std::string> descriptions;
  std::optional<google::rpc::RetryInfo> retry;
  std::optional<google::rpc::ResourceInfo> resource;
  bool has_quota_failure = false;
  std::string request_id;
  int details = 0;
};

StatusParts PartsOf(const grpc::Status& status);
StatusParts PartsOf(const absl::Status& status);

}  // namespace sparseserve::testing
