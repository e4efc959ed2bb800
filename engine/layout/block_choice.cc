#include "engine/layout/block_choice.h"

#include <algorithm>
#include <cmath>

#include "engine/base/check.h"

namespace sparseserve {

void BlockChoice::Begin(int64_t count) {
  chosen_.assign(static_cast<size_t>(count), 0);
}

void BlockChoice::Sort(absl::Span<const float> scores) {
  order_.clear();
  for (int32_t i = 0; i < static_cast<int32_t>(chosen_.size()); ++i) {
    if (chosen_[i] == 0) order_.push_back(i);
  }
  std::sort(order_.begin(), order_.end(), [&](int32_t a, int32_t b) {
    return scores[a] != scores[b] ? scores[a] > scores[b] : a < b;
  });
}

void BlockChoice::TakeBest(absl::Span<const float> scores, int64_t k) {
  SPARSESERVE_CHECK(scores.size() == chosen_.size());
  Sort(scores);
  int64_t left = k - std::count(chosen_.begin(), chosen_.end(), 1);
  for (const int32_t index : order_) {
    if (left-- <= 0) break;
    chosen_[index] = 1;
  }
}

void BlockChoice::TakeMass(absl::Span<const float> scores, float share,
                           Crossing crossing) {
  SPARSESERVE_CHECK(scores.size() == chosen_.size());
  double total = 0;
  double mass = 0;
  for (size_t i = 0; i < scores.size(); ++i) {
    total += scores[i];
    if (chosen_[i] != 0) mass += scores[i];
  }
  if (share >= 1.0f || !std::isfinite(total)) {
    std::fill(chosen_.begin(), chosen_.end(), 1);
    return;
  }
  const double target = share * total;
  if (mass >= target) return;
  Sort(scores);
  for (const int32_t index : order_) {
    const double next = mass + scores[index];
    if (crossing == Crossing::kExcluded && next > target) break;
    chosen_[index] = 1;
    mass = next;
    if (mass >= target) break;
  }
}

void BlockChoice::GetRanges(std::vector<BlockRange>& ranges) const {
  ranges.clear();
  for (int32_t i = 0; i < static_cast<int32_t>(chosen_.size()); ++i) {
    if (chosen_[i] == 0) continue;
    if (!ranges.empty() && ranges.back().end == i) {
      ++ranges.back().end;
    } else {
      ranges.push_back({i, i + 1});
    }
  }
}

}  // namespace sparseserve
