#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "sparseserve/v1/inference_service.pb.h"

namespace sparseserve {

// The choice of attention that a flag names: "PATTERN" or
// "PATTERN:PARAMETER=VALUE,...", where PATTERN is one of those that
// attention_pattern.proto has, else the name of a plan. A parameter that is a
// pattern itself is given as PATTERN or as PATTERN.PARAMETER=VALUE:
// "delta:gamma=32,xattention.stride=16". INVALID_ARGUMENT names a parameter
// that the pattern has not, or a value of another type; ranges are the server's
// to check.
absl::StatusOr<v1::AttentionChoice> ParseAttention(absl::string_view text);

// Lines that show each pattern with its parameters: "xattention:stride=N,...".
std::string DescribePatterns();

}  // namespace sparseserve
