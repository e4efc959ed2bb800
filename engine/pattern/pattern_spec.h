#pragma once

// The typed rules of what a query may see. A pattern is data: it knows no
// kernel. To add one, add its struct to the variant; the compiler then finds
// every place that must know it.

#include <cstdint>
#include <string_view>
#include <variant>

namespace sparseserve {

// Every key at or before the query.
struct DensePattern {
  friend bool operator==(const DensePattern&, const DensePattern&) = default;
};

// The latest keys, the query's own among them: a query at position p sees keys
// at positions in (p - window_tokens, p]. As trained into Mistral and Gemma.
struct SlidingWindowPattern {
  int32_t window_tokens = 1;  // at least 1
  friend bool operator==(const SlidingWindowPattern&,
                         const SlidingWindowPattern&) = default;
};

using PatternSpec = std::variant<DensePattern, SlidingWindowPattern>;

// As in the API, the metrics and the logs: "dense", "sliding_window".
std::string_view PatternName(const PatternSpec& pattern);

}  // namespace sparseserve
