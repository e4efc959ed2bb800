#pragma once

#include "google/protobuf/message.h"
#include "server/rpc/field_errors.h"

namespace sparseserve {

// Adds, for each part of a parsed message that came with fields which its
// description does not have, the first such field: a caller who asks for what
// this server has never heard of must learn that it is not done. Visits every
// submessage once, numbers and strings never. What a map's entry has besides
// key and value is lost in parsing and not found.
void FindUnknownFields(const google::protobuf::Message& message,
                       FieldErrors& errors);

}  // namespace sparseserve
