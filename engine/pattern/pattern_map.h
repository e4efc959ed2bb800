#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "engine/pattern/pattern_spec.h"

namespace sparseserve {

// A pattern for every (layer, KV head) of a model. Few of them are distinct,
// and layers whose heads agree are known, so that they can share their lists.
// Immutable; any thread.
class PatternMap {
 public:
  struct Shape {
    int32_t layers = 0;
    int32_t kv_heads = 0;
    friend bool operator==(const Shape&, const Shape&) = default;
  };

  // `pattern_of` is [layers, kv_heads] and holds indexes into `patterns`.
  // INVALID_ARGUMENT names what does not fit: the shape (1 ... kMaxLayers,
  // 1 ... kMaxKvHeads), a size, an index, or a pattern and its parameter.
  static absl::StatusOr<PatternMap> Create(
      const Shape& shape, std::vector<PatternSpec> patterns,
      absl::Span<const int32_t> pattern_of);

  static constexpr int32_t kMaxLayers = 1024;
  static constexpr int32_t kMaxKvHeads = 1024;

  const Shape& shape() const { return shape_; }
  // No two are equal; some head has each of them.
  absl::Span<const PatternSpec> patterns() const { return patterns_; }
  // [kv_heads]: index into patterns().
  absl::Span<const int32_t> Row(int32_t layer) const {
    return absl::MakeConstSpan(pattern_of_)
        .subspan(int64_t{layer} * shape_.kv_heads, shape_.kv_heads);
  }
  // The first layer that has the same row.
  int32_t FirstEqual(int32_t layer) const { return first_equal_[layer]; }
  const PatternSpec& at(int32_t layer, int32_t kv_head) const {
    return patterns_[Row(layer)[kv_head]];
  }

  // What holds for all of its patterns together.
  PatternTraits traits() const;

 private:
  PatternMap() = default;

  Shape shape_;
  std::vector<PatternSpec> patterns_;
  std::vector<int32_t> pattern_of_;   // [layers, kv_heads]
  std::vector<int32_t> first_equal_;  // [layers]
};

}  // namespace sparseserve
