#pragma once

#include <string>

#include "google/protobuf/message.h"

namespace sparseserve {

// `message` as one line of JSON with its line feed: fields under their names in
// the .proto files, absent where they have their default.
std::string JsonLine(const google::protobuf::Message& message);

}  // namespace sparseserve
