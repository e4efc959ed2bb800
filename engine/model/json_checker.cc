#include "engine/model/json_checker.h"

#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_set.h"
#include "absl/status/status.h"
#include "engine/base/quoted.h"
#include "engine/base/status_macros.h"
#include "engine/base/str_cat.h"
#include "nlohmann/json.hpp"

namespace sparseserve {
namespace {

using Json = nlohmann::json;

class JsonChecker final : public Json::json_sax_t {
 public:
  JsonChecker(std::string_view path, const JsonLimits& limits)
      : path_(path), limits_(limits) {}

  const absl::Status& status() const { return status_; }

  bool null() override { return Count(); }
  bool boolean(bool /*value*/) override { return Count(); }
  bool number_integer(int64_t /*value*/) override { return Count(); }
  bool number_unsigned(uint64_t /*value*/) override { return Count(); }
  bool number_float(double /*value*/, const std::string& /*text*/) override {
    return Count();
  }
  bool string(std::string& /*value*/) override { return Count(); }
  bool binary(Json::binary_t& /*value*/) override { return Count(); }
  bool start_object(size_t /*elements*/) override { return Open(); }
  bool end_object() override { return Close(); }
  bool start_array(size_t /*elements*/) override { return Open(); }
  bool end_array() override { return Close(); }
  bool key(std::string& value) override {
    if (keys_.back().insert(value).second) return true;
    return Fail(StrCat(" has the key ", Quoted(value), " twice in one object"));
  }
  bool parse_error(size_t position, const std::string& /*last_token*/,
                   const Json::exception& /*error*/) override {
    // Counts from one.
    return Fail(
        StrCat(" is not JSON at byte ", position == 0 ? 0 : position - 1));
  }

 private:
  bool Fail(const std::string& message) {
    status_ = absl::InvalidArgumentError(StrCat(path_, message));
    return false;
  }
  bool Count() {
    if (++values_ <= limits_.max_values) return true;
    return Fail(StrCat(" has more than ", limits_.max_values, " values"));
  }
  bool Open() {
    if (keys_.size() == limits_.max_depth) {
      return Fail(StrCat(" nests deeper than ", limits_.max_depth));
    }
    keys_.emplace_back();
    return Count();
  }
  bool Close() {
    keys_.pop_back();
    return true;
  }

  const std::string_view path_;
  const JsonLimits limits_;
  absl::Status status_;
  size_t values_ = 0;
  // Of each open object; an open array has none.
  std::vector<absl::flat_hash_set<std::string>> keys_;
};

}  // namespace

absl::Status CheckJson(std::string_view text, std::string_view path,
                       const JsonLimits& limits) {
  JsonChecker checker(path, limits);
  const bool complete = Json::sax_parse(text.begin(), text.end(), &checker);
  RETURN_IF_ERROR(checker.status());
  if (complete) return absl::OkStatus();
  return absl::InvalidArgumentError(StrCat(path, " is not JSON"));
}

}  // namespace sparseserve
