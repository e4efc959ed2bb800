#pragma once

#include <algorithm>

namespace sparseserve {

// What steps may carry of work whose target cannot be met while there is other
// work: a share of the tokens that steps may have. Saved up over steps, so that
// chunks larger than one step's share run too; no more than `most` tokens of
// it. Late answers that were begun are written on whatever that takes, and
// owed: likewise no more than `most`, so that late prompts need not wait long
// once those have ended.
class LateShare {
 public:
  LateShare(double share, int most) : share_(share), most_(most) {}

  // Tokens that late work may have now.
  int allowance() const { return std::max(0, static_cast<int>(saved_)); }

  // Of a step that might have had `all` tokens, `late` were late work's.
  void Count(int all, int late) {
    saved_ = std::clamp<double>(saved_ + share_ * all - late, -most_, most_);
  }

 private:
  const double share_;
  const int most_;
  double saved_ = 0;
};

}  // namespace sparseserve
