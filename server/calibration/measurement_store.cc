#include "server/calibration/measurement_store.h"

#include <filesystem>
#include <sstream>
#include <system_error>
#include <utility>

#include "engine/base/status_macros.h"
#include "engine/base/str_cat.h"
#include "nlohmann/json.hpp"

namespace sparseserve {
namespace {

using Json = nlohmann::json;

Json ToJson(const BandMeasurement& band) {
  return {{"divergences", band.divergences},
          {"same_top", band.same_top},
          {"log_probability", band.log_probability},
          {"dense_log_probability", band.dense_log_probability},
          {"targets", band.targets},
          {"density", band.density},
          {"recalls", band.recalls}};
}

// The library throws for a value of another type than is asked for.
bool FromJson(const Json& json, BandMeasurement& band) {
  const auto is_numbers = [](const Json& array) {
    if (!array.is_array()) return false;
    for (const Json& value : array) {
      if (!value.is_number()) return false;
    }
    return true;
  };
  if (!json.is_object() || !json.contains("recalls") ||
      !json["recalls"].is_array() || !json.contains("divergences") ||
      !is_numbers(json["divergences"])) {
    return false;
  }
  for (const char* name : {"same_top", "log_probability",
                           "dense_log_probability", "targets", "density"}) {
    if (!json.contains(name) || !json[name].is_number()) return false;
  }
  for (const Json& group : json["recalls"]) {
    if (!is_numbers(group)) return false;
    band.recalls.push_back(group.get<std::vector<float>>());
  }
  band.divergences = json["divergences"].get<std::vector<float>>();
  band.same_top = json["same_top"].get<int>();
  band.log_probability = json["log_probability"].get<double>();
  band.dense_log_probability = json["dense_log_probability"].get<double>();
  band.targets = json["targets"].get<int>();
  band.density = json["density"].get<double>();
  return !band.divergences.empty();
}

bool FromJson(const Json& json, HeadOption& option) {
  if (!json.is_array() || json.size() != 2 || !json[0].is_number() ||
      !json[1].is_number()) {
    return false;
  }
  option = {json[0].get<double>(), json[1].get<double>()};
  return true;
}

template <typename Value>
bool ListFromJson(const Json& json, std::vector<Value>& values) {
  if (!json.is_array()) return false;
  for (const Json& value : json) {
    if (!FromJson(value, values.emplace_back())) return false;
  }
  return true;
}

}  // namespace

absl::StatusOr<std::unique_ptr<MeasurementStore>> MeasurementStore::Open(
    const std::string& path, const std::string& purpose) {
  std::unique_ptr<MeasurementStore> store(new MeasurementStore);
  if (path.empty()) return store;
  store->path_ = path;
  std::string text;
  if (std::ifstream file(path, std::ios::binary); file) {
    std::ostringstream all;
    all << file.rdbuf();
    text = all.str();
  }
  // All lines are whole but the last one of a run that was interrupted.
  const size_t whole = text.rfind('\n') == text.npos ? 0 : text.rfind('\n') + 1;
  text.resize(whole);
  std::istringstream lines(text);
  std::string line;
  int number = 0;
  while (std::getline(lines, line)) {
    if (++number == 1) {
      const Json head = Json::parse(line, nullptr, /*allow_exceptions=*/false);
      if (!head.is_object() || !head.contains("purpose") ||
          head["purpose"] != purpose) {
        return absl::FailedPreconditionError(
            StrCat(path, " has measurements of something else than ", purpose,
                   "; its first line is ", line.substr(0, 256)));
      }
      continue;
    }
    const absl::Status status = store->ReadLine(line);
    if (!status.ok()) {
      return absl::InvalidArgumentError(
          StrCat(path, ":", number, ": ", status.message()));
    }
  }
  if (number > 0) {
    std::error_code error;
    std::filesystem::resize_file(path, whole, error);
    if (error) return absl::UnavailableError(StrCat("cannot write ", path));
  }
  store->file_.open(
      path, std::ios::binary | (number > 0 ? std::ios::app : std::ios::trunc));
  if (number == 0) {
    RETURN_IF_ERROR(store->Append(Json({{"purpose", purpose}}).dump()));
  }
  return store;
}

absl::Status MeasurementStore::ReadLine(const std::string& line) {
  const Json json = Json::parse(line, nullptr, /*allow_exceptions=*/false);
  if (json.is_object() && json.contains("key") && json["key"].is_string()) {
    const auto key = json["key"].get<std::string>();
    if (json.contains("bands") && ListFromJson(json["bands"], texts_[key])) {
      return absl::OkStatus();
    }
    texts_.erase(key);
    if (json.contains("options") &&
        ListFromJson(json["options"], options_[key])) {
      return absl::OkStatus();
    }
  }
  return absl::InvalidArgumentError("is not a measurement");
}

absl::Status MeasurementStore::Append(const std::string& line) {
  if (path_.empty()) return absl::OkStatus();
  file_ << line << '\n';
  file_.flush();
  if (file_) return absl::OkStatus();
  return absl::UnavailableError(StrCat("cannot write ", path_));
}

const TextMeasurement* MeasurementStore::FindText(
    const std::string& key) const {
  const auto found = texts_.find(key);
  return found == texts_.end() ? nullptr : &found->second;
}

const std::vector<HeadOption>* MeasurementStore::FindOptions(
    const std::string& key) const {
  const auto found = options_.find(key);
  return found == options_.end() ? nullptr : &found->second;
}

absl::Status MeasurementStore::AddText(const std::string& key,
                                       TextMeasurement measured) {
  Json bands = Json::array();
  for (const BandMeasurement& band : measured) bands.push_back(ToJson(band));
  RETURN_IF_ERROR(Append(Json({{"key", key}, {"bands", bands}}).dump()));
  texts_[key] = std::move(measured);
  return absl::OkStatus();
}

absl::Status MeasurementStore::AddOptions(const std::string& key,
                                          std::vector<HeadOption> options) {
  Json list = Json::array();
  for (const HeadOption& option : options) {
    list.push_back({option.cost, option.loss});
  }
  RETURN_IF_ERROR(Append(Json({{"key", key}, {"options", list}}).dump()));
  options_[key] = std::move(options);
  return absl::OkStatus();
}

}  // namespace sparseserve
