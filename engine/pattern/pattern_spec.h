#pragma once

// The typed rules of what a query may see. A pattern is data: it knows no
// kernel. To add one, add its struct to the variant; the compiler then finds
// every place that must know it.

#include <string_view>
#include <variant>

namespace sparseserve {

// Every key at or before the query.
struct DensePattern {
  friend bool operator==(const DensePattern&, const DensePattern&) = default;
};

using PatternSpec = std::variant<DensePattern>;

// As in the API, the metrics and the logs: "dense".
std::string_view PatternName(const PatternSpec& pattern);

}  // namespace sparseserve
