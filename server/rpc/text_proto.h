#pragma once

#include <string>

#include "absl/status/status.h"
#include "google/protobuf/message.h"

namespace sparseserve {

// Reads `text`, in Protobuf's text format. INVALID_ARGUMENT says in a line for
// each error where it is, "NAME:LINE:COLUMN: ...", and what.
absl::Status ParseTextProto(const std::string& text, const std::string& name,
                            google::protobuf::Message& message);

}  // namespace sparseserve
