#pragma once

#include <string>

#include "absl/status/status.h"
#include "google/protobuf/message.h"

namespace sparseserve {

// Reads a message in Protobuf's text format. INVALID_ARGUMENT has a line
// "NAME:LINE:COLUMN: ..." for everything that is wrong, a field that the
// message has not among it.
absl::Status ParseText(const std::string& text, const std::string& name,
                       google::protobuf::Message& message);

}  // namespace sparseserve
