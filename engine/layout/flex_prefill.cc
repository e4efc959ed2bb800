#include "engine/layout/flex_prefill.h"

#include <algorithm>

#include "engine/base/check.h"
#include "engine/step.h"

namespace sparseserve {

bool FlexPrefill::Choose(const FlexPrefillRule& rule, const AttentionSums& sums,
                         absl::Span<const float> pooled_last) {
  map_.clear();
  map_offsets_.assign(1, 0);
  is_query_aware_ = false;
  is_everything_ = rule.mass >= 1.0f || !AreFinite(sums.columns) ||
                   !AreFinite(sums.diagonals) || !AreFinite(pooled_last);
  if (is_everything_) return false;
  SumBlocks(sums.columns, block_sums_);
  is_query_aware_ =
      JensenShannonDistance(pooled_last, block_sums_) < rule.divergence;
  ChooseBlocks(rule, sums.columns, key_blocks_);
  ChooseBlocks(rule, sums.diagonals, distance_blocks_);
  return is_query_aware_;
}

void FlexPrefill::ChooseBlocks(const FlexPrefillRule& rule,
                               absl::Span<const float> sums,
                               std::vector<int32_t>& best) {
  int64_t count = rule.least_blocks;
  if (!is_query_aware_) {
    choice_.Begin(static_cast<int64_t>(sums.size()));
    choice_.TakeMass(sums, rule.mass, Crossing::kIncluded);
    const absl::Span<const uint8_t> chosen = choice_.chosen();
    const int64_t tokens = std::count(chosen.begin(), chosen.end(), 1);
    count = std::max(count, tokens / kPageTokens + 1);
  }
  SumBlocks(sums, block_sums_);
  choice_.Begin(static_cast<int64_t>(block_sums_.size()));
  if (count > 0) choice_.Force(0);
  choice_.TakeBest(block_sums_, count);
  best.clear();
  for (int32_t b = 0; b < static_cast<int32_t>(block_sums_.size()); ++b) {
    if (choice_.chosen()[b] != 0) best.push_back(b);
  }
}

void FlexPrefill::AddMapRow(absl::Span<const float> scores) {
  SPARSESERVE_CHECK(is_query_aware_);
  map_.insert(map_.end(), scores.begin(), scores.end());
  map_offsets_.push_back(static_cast<int64_t>(map_.size()));
}

void FlexPrefill::ChooseFromMap(const FlexPrefillRule& rule) {
  map_choice_.Begin(static_cast<int64_t>(map_.size()));
  map_choice_.TakeMass(map_, rule.mass, Crossing::kIncluded);
}

void FlexPrefill::ForceBlocks(const QueryTile& tile, int32_t index,
                              BlockChoice& choice) const {
  const int32_t own = QueryBlock(tile, kPageTokens);
  if (is_everything_) {
    for (int32_t b = 0; b <= own; ++b) choice.Force(b);
    return;
  }
  for (const int32_t block : key_blocks_) {
    if (block <= own) choice.Force(block);
  }
  for (const int32_t distance : distance_blocks_) {
    if (distance <= own) choice.Force(own - distance);
  }
  if (!is_query_aware_) return;
  const absl::Span<const uint8_t> row = map_choice_.chosen().subspan(
      map_offsets_[index], map_offsets_[index + 1] - map_offsets_[index]);
  SPARSESERVE_CHECK(static_cast<int32_t>(row.size()) == own + 1);
  for (int32_t b = 0; b <= own; ++b) {
    if (row[b] != 0) choice.Force(b);
  }
}

}  // namespace sparseserve
