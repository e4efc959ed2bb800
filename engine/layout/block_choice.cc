#include "engine/layout/block_choice.h"

#include <algorithm>
#include <cmath>

#include "engine/base/check.h"

namespace sparseserve {
namespace {

// Of equal scores the lower index is before.
struct IsBetter {
  absl::Span<const float> scores;

  bool operator()(int32_t a, int32_t b) const {
    return scores[a] != scores[b] ? scores[a] > scores[b] : a < b;
  }
};

}  // namespace

void BlockChoice::Begin(int64_t count) {
  chosen_.assign(static_cast<size_t>(count), 0);
}

void BlockChoice::ListOthers() {
  others_.clear();
  for (int32_t i = 0; i < static_cast<int32_t>(chosen_.size()); ++i) {
    if (chosen_[i] == 0) others_.push_back(i);
  }
}

void BlockChoice::TakeBest(absl::Span<const float> scores, int64_t k) {
  SPARSESERVE_CHECK(scores.size() == chosen_.size());
  ListOthers();
  const int64_t forced = static_cast<int64_t>(chosen_.size()) -
                         static_cast<int64_t>(others_.size());
  const int64_t left =
      std::clamp<int64_t>(k - forced, 0, static_cast<int64_t>(others_.size()));
  std::nth_element(others_.begin(), others_.begin() + left, others_.end(),
                   IsBetter{scores});
  for (int64_t i = 0; i < left; ++i) chosen_[others_[i]] = 1;
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
  ListOthers();
  std::sort(others_.begin(), others_.end(), IsBetter{scores});
  for (const int32_t index : others_) {
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
