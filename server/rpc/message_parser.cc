#include "server/rpc/message_parser.h"

#include <string>

#include "engine/base/str_cat.h"
#include "google/protobuf/descriptor.h"
#include "google/protobuf/unknown_field_set.h"
#include "server/rpc/field_errors.h"
#include "server/rpc/unknown_fields.h"
#include "server/rpc/utf8_text.h"

namespace sparseserve {
namespace {

using ::google::protobuf::Descriptor;
using ::google::protobuf::FieldDescriptor;
using ::google::protobuf::UnknownField;
using ::google::protobuf::UnknownFieldSet;

// Finds strings that are not UTF-8 by walking the wire format along the
// message's description. The depth is that of the schema, which has no cycles.
void FindBadText(const std::string& bytes, const Descriptor& type,
                 const std::string& prefix, FieldErrors& errors) {
  UnknownFieldSet fields;
  if (!fields.ParseFromString(bytes)) {
    errors.Add(prefix.empty() ? "request" : prefix, "",
               StrCat("a ", type.full_name(), " message"));
    return;
  }
  int index = 0;
  int previous = 0;
  for (int i = 0; i < fields.field_count(); ++i) {
    const UnknownField& value = fields.field(i);
    index = value.number() == previous ? index + 1 : 0;
    previous = value.number();
    const FieldDescriptor* field = type.FindFieldByNumber(value.number());
    if (field == nullptr ||
        value.type() != UnknownField::TYPE_LENGTH_DELIMITED) {
      continue;
    }
    std::string path =
        prefix.empty() ? field->name() : StrCat(prefix, ".", field->name());
    if (field->is_repeated()) path = StrCat(path, "[", index, "]");
    if (field->type() == FieldDescriptor::TYPE_MESSAGE) {
      FindBadText(value.length_delimited(), *field->message_type(), path,
                  errors);
    } else if (field->type() == FieldDescriptor::TYPE_STRING &&
               !IsUtf8(value.length_delimited())) {
      errors.Add(path, "", "valid UTF-8");
    }
  }
}

}  // namespace

absl::Status ParseRequest(std::string_view bytes,
                          google::protobuf::Message& message) {
  FieldErrors errors;
  if (message.ParseFromArray(bytes.data(), static_cast<int>(bytes.size()))) {
    FindUnknownFields(message, errors);
    return errors.ToStatus();
  }
  FindBadText(std::string(bytes), *message.GetDescriptor(), "", errors);
  if (errors.empty()) {
    errors.Add("request", "",
               StrCat("a ", message.GetDescriptor()->full_name(), " message"));
  }
  return errors.ToStatus();
}

}  // namespace sparseserve
