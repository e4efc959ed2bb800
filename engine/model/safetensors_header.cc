#include "engine/model/safetensors_header.h"

#include <array>
#include <limits>
#include <optional>
#include <string>
#include <utility>

#include "absl/container/flat_hash_set.h"
#include "engine/base/checked_math.h"
#include "engine/base/status_macros.h"
#include "engine/model/safetensors_type.h"
#include "nlohmann/json.hpp"

namespace sparseserve {
namespace {

using Json = nlohmann::json;

constexpr size_t kMaxDimensions = 8;
constexpr size_t kMaxNameBytes = 1024;
constexpr std::string_view kMetadata = "__metadata__";

// Takes the header's JSON event by event, so that nothing is built of it but
// the tensors, and nothing nests deeper than they do.
class HeaderReader final : public Json::json_sax_t {
 public:
  // The first thing that is wrong with the header.
  const absl::Status& status() const { return status_; }
  std::vector<SafetensorsTensor> TakeTensors() { return std::move(tensors_); }

  bool null() override { return Unexpected("null"); }
  bool boolean(bool /*value*/) override { return Unexpected("a boolean"); }
  bool number_integer(int64_t value) override {
    return Unexpected(StrCat(value));
  }
  bool number_unsigned(uint64_t value) override;
  bool number_float(double value, const std::string& /*text*/) override {
    return Unexpected(StrCat(value));
  }
  bool string(std::string& value) override;
  bool binary(Json::binary_t& /*value*/) override {
    return Unexpected("binary");
  }
  bool start_object(size_t /*elements*/) override;
  bool key(std::string& value) override;
  bool end_object() override;
  bool start_array(size_t /*elements*/) override;
  bool end_array() override;
  bool parse_error(size_t position, const std::string& /*last_token*/,
                   const Json::exception& /*error*/) override {
    // Counts from one.
    return Fail(StrCat("the header is not JSON at its byte ",
                       position == 0 ? 0 : position - 1));
  }

 private:
  // Where the next event stands.
  enum class Place { kOutside, kHeader, kTensor, kArray, kMetadata };
  // What a tensor's value belongs to.
  enum class Field { kNone, kType, kShape, kOffsets };

  bool Fail(const std::string& message) {
    status_ = absl::InvalidArgumentError(message);
    return false;
  }
  bool Unexpected(std::string_view found) {
    return Fail(StrCat(Where(), " is ", found, ", not ", Wanted()));
  }
  std::string Where() const;
  std::string_view Wanted() const;
  bool NameTensor(std::string& name);
  bool NameField(std::string_view name);

  absl::Status status_;
  std::vector<SafetensorsTensor> tensors_;
  absl::flat_hash_set<std::string> names_;
  Place place_ = Place::kOutside;
  bool is_done_ = false;           // the header's object has ended
  bool is_in_metadata_ = false;    // its value comes next
  Field field_ = Field::kNone;     // whose value comes next
  std::array<bool, 4> seen_ = {};  // [Field] of the tensor being read
  std::vector<uint64_t> offsets_;
};

std::string HeaderReader::Where() const {
  if (is_in_metadata_) return std::string(kMetadata);
  if (place_ == Place::kOutside) return "the header";
  std::string title = StrCat(place_ == Place::kArray ? "an element of " : "",
                             tensors_.back().Title());
  switch (field_) {
    case Field::kNone:
      return title;
    case Field::kType:
      return StrCat(title, ": dtype");
    case Field::kShape:
      return StrCat(title, ": shape");
    case Field::kOffsets:
      return StrCat(title, ": data_offsets");
  }
  return title;
}

std::string_view HeaderReader::Wanted() const {
  if (place_ == Place::kMetadata) return "text";
  if (place_ == Place::kArray) return "a natural number";
  switch (field_) {
    case Field::kNone:
      return "an object";
    case Field::kType:
      return "text";
    case Field::kShape:
      return "an array of sizes";
    case Field::kOffsets:
      return "an array of two offsets";
  }
  return "";
}

bool HeaderReader::start_object(size_t /*elements*/) {
  if (place_ == Place::kOutside && !is_done_) {
    place_ = Place::kHeader;
    return true;
  }
  if (place_ == Place::kHeader) {
    place_ = is_in_metadata_ ? Place::kMetadata : Place::kTensor;
    return true;
  }
  return Unexpected("an object");
}

bool HeaderReader::key(std::string& value) {
  switch (place_) {
    case Place::kHeader:
      return NameTensor(value);
    case Place::kTensor:
      return NameField(value);
    default:
      return true;  // of the metadata, which nobody asks for
  }
}

bool HeaderReader::NameTensor(std::string& name) {
  if (name.empty() || name.size() > kMaxNameBytes) {
    return Fail(StrCat("a tensor has a name of ", name.size(),
                       " bytes, not within 1 and ", kMaxNameBytes));
  }
  if (!names_.insert(name).second) {
    return Fail(StrCat("tensor ", Quoted(name), " occurs twice"));
  }
  is_in_metadata_ = name == kMetadata;
  if (is_in_metadata_) return true;
  seen_ = {};
  offsets_.clear();
  tensors_.emplace_back();
  tensors_.back().name = std::move(name);
  return true;
}

bool HeaderReader::NameField(std::string_view name) {
  field_ = Field::kNone;
  if (name == "dtype") field_ = Field::kType;
  if (name == "shape") field_ = Field::kShape;
  if (name == "data_offsets") field_ = Field::kOffsets;
  if (field_ == Field::kNone) {
    return Fail(StrCat(tensors_.back().Title(), " has an unknown field ",
                       Quoted(name)));
  }
  bool& seen = seen_[static_cast<size_t>(field_)];
  if (seen) return Fail(StrCat(Where(), " occurs twice"));
  seen = true;
  return true;
}

bool HeaderReader::string(std::string& value) {
  if (place_ == Place::kMetadata) return true;
  if (place_ != Place::kTensor || field_ != Field::kType) {
    return Unexpected("text");
  }
  SafetensorsTensor& tensor = tensors_.back();
  // Long enough for every type there is, and short in a message.
  constexpr size_t kMaxTypeBytes = 16;
  if (value.size() > kMaxTypeBytes) {
    return Fail(StrCat(Where(), " is ", Quoted(value), ", longer than ",
                       kMaxTypeBytes, " bytes"));
  }
  tensor.type = value;
  const SafetensorsType* known = FindSafetensorsType(value);
  if (known != nullptr) tensor.dtype = known->dtype;
  return true;
}

bool HeaderReader::start_array(size_t /*elements*/) {
  if (place_ != Place::kTensor ||
      (field_ != Field::kShape && field_ != Field::kOffsets)) {
    return Unexpected("an array");
  }
  place_ = Place::kArray;
  return true;
}

bool HeaderReader::end_array() {
  place_ = Place::kTensor;
  return true;
}

bool HeaderReader::number_unsigned(uint64_t value) {
  if (place_ != Place::kArray) return Unexpected(StrCat(value));
  if (field_ == Field::kOffsets) {
    offsets_.push_back(value);
    if (offsets_.size() <= 2) return true;
    return Fail(StrCat(Where(), " has more than two elements"));
  }
  std::vector<int64_t>& shape = tensors_.back().shape;
  if (value > std::numeric_limits<int64_t>::max()) {
    return Fail(
        StrCat(Where(), " has the size ", value, ", more than 2^63 - 1"));
  }
  if (shape.size() == kMaxDimensions) {
    return Fail(
        StrCat(Where(), " has more than ", kMaxDimensions, " dimensions"));
  }
  shape.push_back(static_cast<int64_t>(value));
  return true;
}

// Bytes of a tensor if its type's size is known; an error if its elements, or
// their bytes, are more than 63 bits count.
absl::StatusOr<std::optional<uint64_t>> SizeOf(
    const SafetensorsTensor& tensor) {
  const SafetensorsType* known = FindSafetensorsType(tensor.type);
  std::optional<uint64_t> bytes = known == nullptr ? 1 : known->bytes;
  for (const int64_t size : tensor.shape) {
    bytes = CheckedMultiply(*bytes, static_cast<uint64_t>(size));
    if (!bytes.has_value() || *bytes > std::numeric_limits<int64_t>::max()) {
      return absl::InvalidArgumentError(
          StrCat(tensor.Title(), " of shape ", tensor.ShapeText(), " and type ",
                 Quoted(tensor.type), " is larger than 2^63 - 1 bytes"));
    }
  }
  if (known == nullptr) bytes.reset();
  return bytes;
}

bool HeaderReader::end_object() {
  const Place ended = place_;
  is_done_ = ended == Place::kHeader;
  place_ = is_done_ ? Place::kOutside : Place::kHeader;
  if (ended == Place::kMetadata) is_in_metadata_ = false;
  if (ended != Place::kTensor) return true;
  SafetensorsTensor& tensor = tensors_.back();
  for (const auto& [field, name] :
       {std::pair(Field::kType, "dtype"), std::pair(Field::kShape, "shape"),
        std::pair(Field::kOffsets, "data_offsets")}) {
    if (!seen_[static_cast<size_t>(field)]) {
      return Fail(StrCat(tensor.Title(), " has no ", name));
    }
  }
  if (offsets_.size() != 2 || offsets_[0] > offsets_[1]) {
    return Fail(StrCat(tensor.Title(),
                       ": data_offsets are not a beginning and an end"));
  }
  field_ = Field::kNone;
  tensor.begin = offsets_[0];
  tensor.end = offsets_[1];
  const auto bytes = SizeOf(tensor);
  if (!bytes.ok()) {
    status_ = bytes.status();
    return false;
  }
  if (bytes->has_value() && **bytes != tensor.end - tensor.begin) {
    return Fail(StrCat(tensor.Title(), " of shape ", tensor.ShapeText(),
                       " and type ", tensor.type, " takes ", **bytes,
                       " bytes, but its data_offsets hold ",
                       tensor.end - tensor.begin));
  }
  return true;
}

}  // namespace

absl::StatusOr<std::vector<SafetensorsTensor>> ParseSafetensorsHeader(
    std::string_view header) {
  // The format wants it at the very beginning; JSON would take blanks.
  if (header.empty() || header.front() != '{') {
    return absl::InvalidArgumentError("the header does not begin with \"{\"");
  }
  HeaderReader reader;
  const bool complete = Json::sax_parse(header.begin(), header.end(), &reader);
  RETURN_IF_ERROR(reader.status());
  if (!complete) return absl::InvalidArgumentError("the header is not JSON");
  return reader.TakeTensors();
}

}  // namespace sparseserve
