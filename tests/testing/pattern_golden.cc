#include "tests/testing/pattern_golden.h"

#include <cstring>
#include <fstream>

#include "engine/base/check.h"

namespace sparseserve::testing {
namespace {

constexpr char kFolder[] = "tests/golden/patterns/";

template <typename T>
std::vector<double> Widened(const SafetensorsTensor& tensor) {
  std::vector<T> values((tensor.end - tensor.begin) / sizeof(T));
  std::memcpy(values.data(), tensor.data, values.size() * sizeof(T));
  return {values.begin(), values.end()};
}

std::vector<double> Values(const SafetensorsTensor& tensor) {
  if (tensor.type == "F64") return Widened<double>(tensor);
  if (tensor.type == "F32") return Widened<float>(tensor);
  if (tensor.type == "I32") return Widened<int32_t>(tensor);
  SPARSESERVE_CHECK(tensor.type == "U8");
  return Widened<uint8_t>(tensor);
}

}  // namespace

std::vector<bool> PatternGolden::Case::real() const {
  std::vector<bool> real;
  for (const int token : parameters.at("real")) real.push_back(token != 0);
  return real;
}

PatternGolden::PatternGolden(const std::string& system) {
  const auto json =
      nlohmann::json::parse(std::ifstream(kFolder + system + ".json"));
  for (const auto& parameters : json.at("cases")) {
    cases_.push_back({parameters});
  }
  auto file = SafetensorsFile::Open(kFolder + system + ".safetensors");
  SPARSESERVE_CHECK(file.ok());
  file_ = std::move(file).value();
}

bool PatternGolden::Has(const Case& from, const std::string& name) const {
  for (const SafetensorsTensor& tensor : file_->tensors()) {
    if (tensor.name == from.name() + "/" + name) return true;
  }
  return false;
}

const SafetensorsTensor& PatternGolden::Tensor(const Case& from,
                                               const std::string& name) const {
  const SafetensorsTensor* found = nullptr;
  for (const SafetensorsTensor& tensor : file_->tensors()) {
    if (tensor.name == from.name() + "/" + name) found = &tensor;
  }
  SPARSESERVE_CHECK(found != nullptr);
  return *found;
}

std::vector<Rows> PatternGolden::Heads(const Case& from,
                                       const std::string& name) const {
  const SafetensorsTensor& tensor = Tensor(from, name);
  const std::vector<double> values = Values(tensor);
  const size_t axes = tensor.shape.size();
  const int64_t heads = axes == 3 ? tensor.shape[0] : 1;
  Rows rows{tensor.shape[axes - 2], tensor.shape[axes - 1], {}};
  std::vector<Rows> result(heads, rows);
  const int64_t each = rows.count * rows.columns;
  for (int64_t h = 0; h < heads; ++h) {
    result[h].values.assign(values.begin() + h * each,
                            values.begin() + (h + 1) * each);
  }
  return result;
}

std::vector<std::vector<std::vector<int64_t>>> PatternGolden::Indices(
    const Case& from, const std::string& name) const {
  std::vector<std::vector<std::vector<int64_t>>> result;
  for (const Rows& rows : Heads(from, name)) {
    auto& head = result.emplace_back();
    for (int64_t r = 0; r < rows.count; ++r) {
      head.emplace_back(rows[r].begin(), rows[r].end());
    }
  }
  return result;
}

std::vector<bool> PatternGolden::Visible(const Case& from, int64_t head,
                                         int64_t row, int64_t keys) const {
  const SafetensorsTensor& bits = Tensor(from, "visible");
  const int64_t of_head = bits.shape[0] == 1 ? 0 : head;
  const std::byte* const of_row =
      bits.data + (of_head * bits.shape[1] + row) * bits.shape[2];
  std::vector<bool> visible(keys);
  for (int64_t key = 0; key < keys; ++key) {
    visible[key] =
        ((static_cast<unsigned>(of_row[key / 8]) >> (key % 8)) & 1u) != 0;
  }
  return visible;
}

}  // namespace sparseserve::testing
