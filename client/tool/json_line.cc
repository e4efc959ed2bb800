#include "client/tool/json_line.h"

#include "google/protobuf/util/json_util.h"

namespace sparseserve {

std::string JsonLine(const google::protobuf::Message& message) {
  google::protobuf::util::JsonPrintOptions options;
  options.preserve_proto_field_names = true;
  std::string line;
  // Cannot fail but for unresolvable Any fields, which the API has none of.
  if (!google::protobuf::util::MessageToJsonString(message, &line, options)
           .ok()) {
    line = "{}";
  }
  line.push_back('\n');
  return line;
}

}  // namespace sparseserve
