#include "server/rpc/unknown_fields.h"

#include <string>

#include "engine/base/str_cat.h"
#include "google/protobuf/descriptor.h"
#include "google/protobuf/unknown_field_set.h"

namespace sparseserve {
namespace {

using ::google::protobuf::Descriptor;
using ::google::protobuf::FieldDescriptor;
using ::google::protobuf::Message;
using ::google::protobuf::Reflection;
using ::google::protobuf::UnknownFieldSet;

// More would repeat themselves, at a cost that the caller chooses.
constexpr int kMaxFound = 16;

// Where a message is in its request. On the stack: only errors need the text.
struct Place {
  const Place* parent;           // null for the request itself
  const FieldDescriptor* field;  // of the parent
  int index;                     // -1 unless repeated
};

std::string PathOf(const Place& place) {
  if (place.parent == nullptr) return "";
  const std::string parent = PathOf(*place.parent);
  const std::string path =
      StrCat(parent, parent.empty() ? "" : ".", place.field->name());
  return place.index < 0 ? path : StrCat(path, "[", place.index, "]");
}

void AddUnknown(int number, const Descriptor& type, const Place& place,
                FieldErrors& errors) {
  const std::string path = PathOf(place);
  const FieldDescriptor* const known = type.FindFieldByNumber(number);
  if (known != nullptr) {
    errors.Add(StrCat(path, path.empty() ? "" : ".", known->name()), "",
               StrCat("encoded as a ", known->type_name()));
    return;
  }
  errors.Add(StrCat(path.empty() ? "request" : path, ".", number), "",
             StrCat("absent: this server's ", type.full_name(),
                    " has no field ", number));
}

// The depth is that of the schema, which has no cycles.
void Visit(const Message& message, const Place& place, FieldErrors& errors) {
  if (errors.found() >= kMaxFound) return;
  const Descriptor& type = *message.GetDescriptor();
  const Reflection& reflection = *message.GetReflection();
  const UnknownFieldSet& unknown = reflection.GetUnknownFields(message);
  if (!unknown.empty()) {
    AddUnknown(unknown.field(0).number(), type, place, errors);
  }
  for (int i = 0; i < type.field_count(); ++i) {
    const FieldDescriptor* const field = type.field(i);
    if (field->cpp_type() != FieldDescriptor::CPPTYPE_MESSAGE ||
        field->is_map()) {
      continue;
    }
    if (!field->is_repeated()) {
      if (reflection.HasField(message, field)) {
        Visit(reflection.GetMessage(message, field), {&place, field, -1},
              errors);
      }
      continue;
    }
    const int size = reflection.FieldSize(message, field);
    for (int index = 0; index < size; ++index) {
      Visit(reflection.GetRepeatedMessage(message, field, index),
            {&place, field, index}, errors);
    }
  }
}

}  // namespace

void FindUnknownFields(const Message& message, FieldErrors& errors) {
  Visit(message, {nullptr, nullptr, -1}, errors);
}

}  // namespace sparseserve
