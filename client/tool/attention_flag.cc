#include "client/tool/attention_flag.h"

#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "google/protobuf/descriptor.h"
#include "google/protobuf/message.h"

namespace sparseserve {
namespace {

using ::google::protobuf::Descriptor;
using ::google::protobuf::EnumDescriptor;
using ::google::protobuf::EnumValueDescriptor;
using ::google::protobuf::FieldDescriptor;
using ::google::protobuf::Message;
using ::google::protobuf::OneofDescriptor;
using ::google::protobuf::Reflection;

// Of a line of help.
constexpr size_t kHelpWidth = 50;

const OneofDescriptor& Patterns() {
  return *v1::AttentionPattern::descriptor()->FindOneofByName("pattern");
}

// Null if there is none of this name.
const FieldDescriptor* FindPattern(absl::string_view name) {
  const FieldDescriptor* const field =
      v1::AttentionPattern::descriptor()->FindFieldByName(std::string(name));
  return field != nullptr && field->containing_oneof() == &Patterns() ? field
                                                                      : nullptr;
}

// Values are given without what the names of all begin with: "local" is
// FACTORIZED_PART_LOCAL. The first value is the unspecified one.
absl::string_view ValuePrefix(const EnumDescriptor& type) {
  return absl::StripSuffix(type.value(0)->name(), "UNSPECIFIED");
}

// "both|local|summary".
std::string ValueNames(const EnumDescriptor& type) {
  std::vector<std::string> names;
  for (int i = 1; i < type.value_count(); ++i) {
    names.push_back(absl::AsciiStrToLower(
        absl::StripPrefix(type.value(i)->name(), ValuePrefix(type))));
  }
  return absl::StrJoin(names, "|");
}

// Null if there is none of this name.
const EnumValueDescriptor* FindValue(const EnumDescriptor& type,
                                     absl::string_view name) {
  const EnumValueDescriptor* const value = type.FindValueByName(
      absl::StrCat(ValuePrefix(type), absl::AsciiStrToUpper(name)));
  return value == type.value(0) ? nullptr : value;
}

// Stands for a parameter's value in help and errors.
std::string Placeholder(const FieldDescriptor& parameter) {
  switch (parameter.cpp_type()) {
    case FieldDescriptor::CPPTYPE_BOOL:
      return "true|false";
    case FieldDescriptor::CPPTYPE_FLOAT:
    case FieldDescriptor::CPPTYPE_DOUBLE:
      return "X";
    case FieldDescriptor::CPPTYPE_ENUM:
      return ValueNames(*parameter.enum_type());
    default:
      return "N";
  }
}

// How a parameter is given, in help and errors.
std::string Form(const FieldDescriptor& parameter) {
  return parameter.message_type() != nullptr
             ? absl::StrCat(parameter.name(), "[.PARAMETER=VALUE]")
             : absl::StrCat(parameter.name(), "=", Placeholder(parameter));
}

// False if `text` is no value of the parameter's type.
bool SetParameter(const FieldDescriptor& parameter, absl::string_view text,
                  Message& pattern) {
  const Reflection& reflection = *pattern.GetReflection();
  switch (parameter.cpp_type()) {
    case FieldDescriptor::CPPTYPE_INT32: {
      int32_t value = 0;
      if (!absl::SimpleAtoi(text, &value)) return false;
      reflection.SetInt32(&pattern, &parameter, value);
      return true;
    }
    case FieldDescriptor::CPPTYPE_FLOAT: {
      float value = 0;
      if (!absl::SimpleAtof(text, &value)) return false;
      reflection.SetFloat(&pattern, &parameter, value);
      return true;
    }
    case FieldDescriptor::CPPTYPE_DOUBLE: {
      double value = 0;
      if (!absl::SimpleAtod(text, &value)) return false;
      reflection.SetDouble(&pattern, &parameter, value);
      return true;
    }
    case FieldDescriptor::CPPTYPE_BOOL: {
      bool value = false;
      if (!absl::SimpleAtob(text, &value)) return false;
      reflection.SetBool(&pattern, &parameter, value);
      return true;
    }
    case FieldDescriptor::CPPTYPE_ENUM: {
      const EnumValueDescriptor* const value =
          FindValue(*parameter.enum_type(), text);
      if (value == nullptr) return false;
      reflection.SetEnum(&pattern, &parameter, value);
      return true;
    }
    default:
      return false;
  }
}

std::string ParameterNames(const Descriptor& pattern) {
  std::vector<std::string> names;
  for (int i = 0; i < pattern.field_count(); ++i) {
    names.push_back(pattern.field(i)->name());
  }
  return names.empty() ? "none" : absl::StrJoin(names, ", ");
}

// What `parameter` would put out: another of which only one can be given. Null
// if there is none.
const FieldDescriptor* FindRival(const FieldDescriptor& parameter,
                                 const Message& pattern) {
  const OneofDescriptor* const group = parameter.real_containing_oneof();
  if (group == nullptr) return nullptr;
  const FieldDescriptor* const given =
      pattern.GetReflection()->GetOneofFieldDescriptor(pattern, group);
  return given == &parameter ? nullptr : given;
}

// Sets what `part` says: NAME=VALUE or, where the parameter is a pattern
// itself, NAME or NAME.PARAMETER=VALUE.
absl::Status SetPart(absl::string_view part, Message& pattern) {
  const absl::string_view name = part.substr(0, part.find_first_of(".="));
  const Descriptor& type = *pattern.GetDescriptor();
  const FieldDescriptor* const parameter =
      type.FindFieldByName(std::string(name));
  if (parameter == nullptr) {
    return absl::InvalidArgumentError(absl::StrCat(
        "no parameter \"", name, "\"; it has ", ParameterNames(type)));
  }
  const FieldDescriptor* const rival = FindRival(*parameter, pattern);
  if (rival != nullptr) {
    return absl::InvalidArgumentError(
        absl::StrCat(name, " beside ", rival->name()));
  }
  absl::string_view rest = part.substr(name.size());
  if (parameter->message_type() != nullptr) {
    Message& inner =
        *pattern.GetReflection()->MutableMessage(&pattern, parameter);
    if (rest.empty()) return absl::OkStatus();
    if (absl::ConsumePrefix(&rest, ".")) return SetPart(rest, inner);
  } else if (absl::ConsumePrefix(&rest, "=") &&
             SetParameter(*parameter, rest, pattern)) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(
      absl::StrCat("\"", part, "\" is not ", Form(*parameter)));
}

absl::Status SetParameters(absl::string_view text, Message& pattern) {
  for (const absl::string_view part : absl::StrSplit(text, ',')) {
    const absl::Status status = SetPart(part, pattern);
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<v1::AttentionChoice> ParseAttention(absl::string_view text) {
  const size_t colon = text.find(':');
  const absl::string_view name = text.substr(0, colon);
  const FieldDescriptor* const arm = FindPattern(name);
  v1::AttentionChoice choice;
  if (arm == nullptr) {
    if (colon != text.npos) {
      return absl::InvalidArgumentError(
          absl::StrCat("flag --attention=", text, ": no pattern \"", name,
                       "\", and a plan takes no parameters"));
    }
    choice.set_plan(std::string(text));
    return choice;
  }
  v1::AttentionPattern& pattern = *choice.mutable_pattern();
  Message& chosen = *pattern.GetReflection()->MutableMessage(&pattern, arm);
  if (colon == text.npos) return choice;
  const absl::Status status = SetParameters(text.substr(colon + 1), chosen);
  if (!status.ok()) {
    return absl::InvalidArgumentError(
        absl::StrCat("flag --attention=", text, ": ", status.message()));
  }
  return choice;
}

std::string DescribePatterns() {
  std::vector<std::string> lines;
  for (int i = 0; i < Patterns().field_count(); ++i) {
    const FieldDescriptor& arm = *Patterns().field(i);
    const Descriptor& type = *arm.message_type();
    lines.push_back(arm.name());
    for (int p = 0; p < type.field_count(); ++p) {
      lines.back() += p == 0 ? ':' : ',';
      const std::string parameter = Form(*type.field(p));
      if (lines.back().size() + parameter.size() > kHelpWidth) {
        lines.push_back("  ");
      }
      lines.back() += parameter;
    }
  }
  return absl::StrJoin(lines, "\n");
}

}  // namespace sparseserve
