#pragma once

#include <string_view>

#include "absl/status/status.h"
#include "google/protobuf/message.h"

namespace sparseserve {

// Reads a request from the wire. gRPC's own deserialisation would answer
// UNIMPLEMENTED, without a word, to bytes that are no message or to a string
// that is not UTF-8; this answers INVALID_ARGUMENT and names the field. So it
// does with fields that the server does not know, which Protobuf ignores.
absl::Status ParseRequest(std::string_view bytes,
                          google::protobuf::Message& message);

}  // namespace sparseserve
