#include "engine/pattern/pattern_map.h"

#include <algorithm>
#include <numeric>
#include <string>
#include <utility>

#include "engine/base/status_macros.h"
#include "engine/base/str_cat.h"

namespace sparseserve {
namespace {

template <typename... Parts>
absl::Status Bad(const Parts&... parts) {
  return absl::InvalidArgumentError(StrCat("pattern map: ", parts...));
}

absl::Status CheckCount(std::string_view name, int64_t count, int64_t most) {
  if (count >= 1 && count <= most) return absl::OkStatus();
  return Bad(name, " is ", count, "; allowed: 1 ... ", most);
}

absl::Status CheckParts(const PatternMap::Shape& shape,
                        absl::Span<const PatternSpec> patterns,
                        absl::Span<const int32_t> pattern_of) {
  RETURN_IF_ERROR(CheckCount("layers", shape.layers, PatternMap::kMaxLayers));
  RETURN_IF_ERROR(
      CheckCount("kv_heads", shape.kv_heads, PatternMap::kMaxKvHeads));
  const int64_t heads = int64_t{shape.layers} * shape.kv_heads;
  if (static_cast<int64_t>(pattern_of.size()) != heads) {
    return Bad("it has ", pattern_of.size(), " entries for ", shape.layers,
               " layers with ", shape.kv_heads, " KV heads");
  }
  const int64_t count = static_cast<int64_t>(patterns.size());
  RETURN_IF_ERROR(CheckCount("patterns", count, heads));
  for (int64_t i = 0; i < count; ++i) {
    const absl::Status status = CheckPattern(patterns[i]);
    if (!status.ok()) {
      return Bad("pattern ", i, ": ", std::string(status.message()));
    }
  }
  for (int64_t i = 0; i < heads; ++i) {
    if (pattern_of[i] < 0 || pattern_of[i] >= count) {
      return Bad("layer ", i / shape.kv_heads, ", KV head ", i % shape.kv_heads,
                 " names pattern ", pattern_of[i], " of ", count);
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<PatternMap> PatternMap::Create(
    const Shape& shape, std::vector<PatternSpec> patterns,
    absl::Span<const int32_t> pattern_of) {
  RETURN_IF_ERROR(CheckParts(shape, patterns, pattern_of));
  PatternMap map;
  map.shape_ = shape;
  std::vector<int32_t> known(patterns.size(), -1);
  for (const int32_t given : pattern_of) {
    if (known[given] < 0) {
      const auto equal = std::find(map.patterns_.begin(), map.patterns_.end(),
                                   patterns[given]);
      known[given] = static_cast<int32_t>(equal - map.patterns_.begin());
      if (equal == map.patterns_.end()) {
        map.patterns_.push_back(patterns[given]);
      }
    }
    map.pattern_of_.push_back(known[given]);
  }
  for (int32_t layer = 0; layer < shape.layers; ++layer) {
    int32_t first = 0;
    while (map.Row(first) != map.Row(layer)) ++first;
    map.first_equal_.push_back(first);
  }
  return map;
}

PatternTraits PatternMap::traits() const {
  PatternTraits all;
  all.rules_prefill = false;
  all.rules_decode = false;
  for (const PatternSpec& pattern : patterns_) {
    const PatternTraits traits = TraitsOf(pattern);
    all.is_selection_causal &= traits.is_selection_causal;
    all.chunk_border_tokens =
        std::lcm(all.chunk_border_tokens, traits.chunk_border_tokens);
    all.is_trained_in |= traits.is_trained_in;
    all.is_time_predictable &= traits.is_time_predictable;
    all.is_superset |= traits.is_superset;
    all.rules_prefill |= traits.rules_prefill;
    all.rules_decode |= traits.rules_decode;
  }
  return all;
}

}  // namespace sparseserve
