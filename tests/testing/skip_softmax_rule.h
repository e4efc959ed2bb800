#pragma once

#include <cstdint>
#include <vector>

namespace sparseserve::testing {

// Of rows that decide together by skip-softmax, what they keep of the blocks
// that they visit.
struct SkipSoftmaxRows {
  // [rows][blocks]: the greatest score that a row sees there; -infinity: none.
  std::vector<std::vector<double>> greatest;
  // Blocks, ascending.
  std::vector<int> blocks;
};

struct SkipSoftmaxChoice {
  std::vector<bool> keeps;  // [blocks of the rows]
  // How far the decision that was closest was from the other, in score.
  double margin = 0;
};

// Rows keep a block if for one of them its greatest score is not below the
// greatest of the blocks before plus ln(threshold). With `stretch` > 0 only
// those of the own stretch of so many block numbers come before.
SkipSoftmaxChoice SkipSoftmaxKeeps(const SkipSoftmaxRows& rows,
                                   double threshold, int stretch = 0);

}  // namespace sparseserve::testing
