#include "tests/testing/skip_softmax_rule.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace sparseserve::testing {

SkipSoftmaxChoice SkipSoftmaxKeeps(const SkipSoftmaxRows& rows,
                                   double threshold, int stretch) {
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  SkipSoftmaxChoice choice;
  choice.margin = kInfinity;
  for (size_t b = 0; b < rows.blocks.size(); ++b) {
    bool keeps = false;
    double margin = -kInfinity;
    for (const std::vector<double>& greatest : rows.greatest) {
      double before = -kInfinity;
      for (size_t earlier = 0; earlier < b; ++earlier) {
        if (stretch > 0 &&
            rows.blocks[earlier] / stretch != rows.blocks[b] / stretch) {
          continue;
        }
        before = std::max(before, greatest[earlier]);
      }
      const double limit = before + std::log(threshold);
      keeps = keeps || !(greatest[b] < limit);
      margin = std::max(margin,
                        before == -kInfinity ? kInfinity : greatest[b] - limit);
    }
    choice.keeps.push_back(keeps);
    choice.margin = std::min(choice.margin, std::abs(margin));
  }
  return choice;
}

}  // namespace sparseserve::testing
