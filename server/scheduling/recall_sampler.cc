#include "server/scheduling/recall_sampler.h"

#include <algorithm>
#include <iterator>
#include <numeric>
#include <utility>

namespace sparseserve {
namespace {

// SplitMix64 (Steele, Lea and Flood, 2014): a state's output.
uint64_t Mixed(uint64_t state) {
  state += 0x9E3779B97F4A7C15u;
  state = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9u;
  state = (state ^ (state >> 27)) * 0x94D049BB133111EBu;
  return state ^ (state >> 31);
}

// Sums of rounded weights may exceed 1 by so much.
constexpr float kRounding = 1e-3f;

// Whether a measured share can be one; false for NaN.
bool IsShare(float share) { return share >= 0 && share <= 1; }

float Share(float measured) {
  return measured > 1 && measured <= 1 + kRounding ? 1.0f : measured;
}

bool RulesPhase(const FollowedHeads& heads, Phase phase) {
  const auto dense = static_cast<int>(PatternSpec(DensePattern()).index());
  const std::vector<int>& kinds = heads[static_cast<int>(phase)];
  return std::count(kinds.begin(), kinds.end(), dense) != std::ssize(kinds);
}

}  // namespace

std::vector<int> RecallRows(int prompt_tokens, uint64_t seed) {
  constexpr int64_t kParts = RecallSampler::kPromptRows;
  std::vector<int> rows;
  for (int64_t part = 0; part < kParts; ++part) {
    const int64_t begin = part * prompt_tokens / kParts;
    const int64_t size = (part + 1) * prompt_tokens / kParts - begin;
    if (size == 0) continue;
    const uint64_t draw = Mixed(seed + static_cast<uint64_t>(part));
    rows.push_back(static_cast<int>(begin + static_cast<int64_t>(draw % size)));
  }
  return rows;
}

RecallSampler::RecallSampler(FollowedHeads heads, int prompt_tokens,
                             uint64_t seed)
    : heads_(std::move(heads)), prompt_tokens_(prompt_tokens) {
  if (RulesPhase(heads_, Phase::kPrefill)) {
    prompt_rows_ = RecallRows(prompt_tokens, seed);
  }
}

int64_t RecallSampler::values_per_row() const {
  return static_cast<int64_t>(heads_[0].size());
}

void RecallSampler::Ask(StepSlice& slice) {
  phase_ = slice.phase;
  asked_.clear();
  const int begin = slice.first_position;
  const int end = begin + static_cast<int>(slice.tokens.size());
  if (phase_ == Phase::kPrefill) {
    for (const int row : prompt_rows_) {
      if (row >= begin && row < end) asked_.push_back(row - begin);
    }
  } else if (RulesPhase(heads_, phase_) && output_rows_ < kMaxOutputRows &&
             (begin - prompt_tokens_) % kOutputStride == 0) {
    asked_.push_back(0);
  }
  answers_.assign(asked_.size() * values_per_row(), 1.0f);
  slice.recall_rows = asked_;
  slice.recall = absl::MakeSpan(answers_);
}

void RecallSampler::Take() {
  rows_ += static_cast<int>(asked_.size());
  if (phase_ == Phase::kDecode) {
    output_rows_ += static_cast<int>(asked_.size());
  }
  const std::vector<int>& kinds = heads_[static_cast<int>(phase_)];
  for (size_t i = 0; i < answers_.size(); ++i) {
    shares_[kinds[i % kinds.size()]].push_back(Share(answers_[i]));
  }
  asked_.clear();
  answers_.clear();
}

std::optional<RecallEstimate> RecallSampler::estimate() const {
  std::vector<float> all;
  for (const std::vector<float>& shares : shares_) {
    std::copy_if(shares.begin(), shares.end(), std::back_inserter(all),
                 IsShare);
  }
  if (all.empty()) return std::nullopt;
  RecallEstimate estimate;
  estimate.mean = std::accumulate(all.begin(), all.end(), 0.0) /
                  static_cast<double>(all.size());
  // The nearest rank, counted from 1: ceil(n / 20).
  const auto rank = all.begin() + static_cast<int64_t>((all.size() - 1) / 20);
  std::nth_element(all.begin(), rank, all.end());
  estimate.p5 = *rank;
  estimate.rows = rows_;
  return estimate;
}

}  // namespace sparseserve
