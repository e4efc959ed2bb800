#include "engine/pattern/pattern_spec.h"

namespace sparseserve {
namespace {

struct NameOf {
  std::string_view operator()(const DensePattern&) const { return "dense"; }
  std::string_view operator()(const SlidingWindowPattern&) const {
    return "sliding_window";
  }
};

}  // namespace

std::string_view PatternName(const PatternSpec& pattern) {
  return std::visit(NameOf{}, pattern);
}

}  // namespace sparseserve
