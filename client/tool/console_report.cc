#include "client/tool/console_report.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "google/protobuf/util/json_util.h"

namespace sparseserve {
namespace {

using google::protobuf::Struct;
using google::protobuf::Value;

double NumberOf(const Value* value) {
  return value != nullptr && value->has_number_value()
             ? value->number_value()
             : std::numeric_limits<double>::quiet_NaN();
}

}  // namespace

absl::StatusOr<ConsoleReport> ConsoleReport::Parse(const std::string& json) {
  Struct root;
  const auto parsed = google::protobuf::util::JsonStringToMessage(json, &root);
  if (!parsed.ok()) {
    return absl::InvalidArgumentError("the reply is not an object in JSON");
  }
  return ConsoleReport(std::move(root));
}

ConsoleReport::ConsoleReport(Struct root) : root_(std::move(root)) {}

const Value* ConsoleReport::Find(Path path) const {
  const Struct* object = &root_;
  const Value* value = nullptr;
  for (const absl::string_view name : path) {
    if (object == nullptr) return nullptr;
    const auto found = object->fields().find(std::string(name));
    if (found == object->fields().end()) return nullptr;
    value = &found->second;
    object = value->has_struct_value() ? &value->struct_value() : nullptr;
  }
  return value;
}

double ConsoleReport::Number(Path path) const { return NumberOf(Find(path)); }

std::string ConsoleReport::Text(Path path) const {
  const Value* value = Find(path);
  return value == nullptr ? "" : value->string_value();
}

bool ConsoleReport::IsTrue(Path path) const {
  const Value* value = Find(path);
  return value != nullptr && value->bool_value();
}

std::vector<std::string> ConsoleReport::Members(Path path) const {
  std::vector<std::string> names;
  const Value* value = Find(path);
  if (value == nullptr) return names;
  for (const auto& [name, member] : value->struct_value().fields()) {
    names.push_back(name);
  }
  std::sort(names.begin(), names.end());
  return names;
}

std::vector<double> ConsoleReport::Numbers(Path path) const {
  std::vector<double> numbers;
  const Value* value = Find(path);
  if (value == nullptr) return numbers;
  for (const Value& element : value->list_value().values()) {
    numbers.push_back(NumberOf(&element));
  }
  return numbers;
}

std::vector<ConsoleReport> ConsoleReport::Objects(Path path) const {
  std::vector<ConsoleReport> objects;
  const Value* value = Find(path);
  if (value == nullptr) return objects;
  for (const Value& element : value->list_value().values()) {
    objects.push_back(ConsoleReport(element.struct_value()));
  }
  return objects;
}

}  // namespace sparseserve
