#include "tests/integration/golden_logits.h"

#include <cstring>
#include <fstream>
#include <iterator>
#include <string_view>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "engine/base/status_macros.h"
#include "nlohmann/json.hpp"

namespace sparseserve {
namespace {

using Json = nlohmann::json;

absl::StatusOr<std::string> ReadFile(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) return absl::NotFoundError(absl::StrCat("cannot open ", path));
  return std::string(std::istreambuf_iterator<char>(file), {});
}

// The little-endian arrays of logits.bin by name.
class Arrays {
 public:
  Arrays(const Json& index, std::string_view bytes)
      : index_(index), bytes_(bytes) {}

  template <typename T>
  absl::StatusOr<std::vector<T>> Read(const std::string& name,
                                      std::string_view dtype) const {
    if (!index_.contains(name)) {
      return absl::DataLossError(absl::StrCat("no array ", name));
    }
    const Json& entry = index_[name];
    size_t count = 1;
    for (const Json& extent : entry["shape"]) count *= extent.get<size_t>();
    const size_t offset = entry["offset"].get<size_t>();
    if (entry["dtype"] != dtype || offset + count * sizeof(T) > bytes_.size()) {
      return absl::DataLossError(absl::StrCat("array ", name, " is cut off"));
    }
    std::vector<T> values(count);
    std::memcpy(values.data(), bytes_.data() + offset, count * sizeof(T));
    return values;
  }

  absl::StatusOr<GoldenRows> ReadRows(const std::string& prefix,
                                      bool has_targets) const {
    GoldenRows rows;
    ASSIGN_OR_RETURN(rows.top_ids, Read<uint16_t>(prefix + "/top_ids", "<u2"));
    ASSIGN_OR_RETURN(rows.top_logits,
                     Read<float>(prefix + "/top_logits", "<f4"));
    ASSIGN_OR_RETURN(rows.log_sum_exp,
                     Read<float>(prefix + "/log_sum_exp", "<f4"));
    ASSIGN_OR_RETURN(rows.least, Read<float>(prefix + "/least", "<f4"));
    if (has_targets) {
      ASSIGN_OR_RETURN(rows.target_logprob,
                       Read<float>(prefix + "/target_logprob", "<f4"));
    }
    rows.positions = static_cast<int>(rows.log_sum_exp.size());
    rows.top = static_cast<int>(rows.top_ids.size()) / rows.positions;
    return rows;
  }

 private:
  const Json& index_;
  std::string_view bytes_;
};

absl::StatusOr<std::vector<GoldenText>> ReadTexts(const Json& entries,
                                                  const Arrays& arrays,
                                                  const std::string& group) {
  std::vector<GoldenText> texts;
  for (const Json& entry : entries) {
    GoldenText text;
    text.name = entry["name"];
    text.tokens = entry["tokens"].get<std::vector<TokenId>>();
    ASSIGN_OR_RETURN(text.rows,
                     arrays.ReadRows(group + text.name, /*has_targets=*/true));
    texts.push_back(std::move(text));
  }
  return texts;
}

}  // namespace

absl::StatusOr<GoldenLogits> ReadGoldenLogits(const std::string& folder) {
  ASSIGN_OR_RETURN(const std::string text, ReadFile(folder + "/manifest.json"));
  ASSIGN_OR_RETURN(const std::string bytes, ReadFile(folder + "/logits.bin"));
  const Json manifest = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!manifest.is_object()) {
    return absl::DataLossError(absl::StrCat(folder, "/manifest.json: no JSON"));
  }
  const Arrays arrays(manifest["arrays"], bytes);

  GoldenLogits golden;
  golden.vocab_size = manifest["vocab_size"];
  for (const Json& entry : manifest["prompts"]) {
    GoldenPrompt prompt;
    prompt.name = entry["name"];
    prompt.tokens = entry["tokens"].get<std::vector<TokenId>>();
    prompt.continuation = entry["continuation"].get<std::vector<TokenId>>();
    prompt.least_margin = entry["least_margin"];
    prompt.full_step = entry["full_step"];
    const std::string prefix = "prompt/" + prompt.name;
    ASSIGN_OR_RETURN(prompt.rows,
                     arrays.ReadRows(prefix, /*has_targets=*/false));
    ASSIGN_OR_RETURN(prompt.full, arrays.Read<float>(prefix + "/full", "<f4"));
    golden.prompts.push_back(std::move(prompt));
  }
  ASSIGN_OR_RETURN(golden.passages,
                   ReadTexts(manifest["passages"], arrays, "passage/"));
  ASSIGN_OR_RETURN(golden.prose,
                   ReadTexts(manifest["prose"], arrays, "prose/"));
  return golden;
}

}  // namespace sparseserve
