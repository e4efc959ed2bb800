#include "tests/testing/fake_executor.h"

#include <algorithm>
#include <cstdint>
#include <map>
#include <set>
#include <utility>
#include <variant>

#include "absl/strings/str_cat.h"
#include "engine/pattern/attention_choice.h"
#include "engine/profile/attention_profile.h"

namespace sparseserve::testing {

namespace {

bool IsDense(const StepSlice& slice) {
  return slice.phase == Phase::kDecode || slice.attention == nullptr ||
         std::holds_alternative<DensePattern>(slice.attention->pattern);
}

// Every head visits the same blocks.
void AddTo(AttentionProfile& profile, const AttentionBlocks& blocks) {
  const AttentionProfile::Shape& shape = profile.shape();
  for (int32_t layer = 0; layer < shape.layers; ++layer) {
    for (int32_t head = 0; head < shape.kv_heads; ++head) {
      profile.visited(layer, head).computed += blocks.computed;
      profile.visited(layer, head).allowed += blocks.allowed;
    }
  }
}

}  // namespace

FakeExecutor::FakeExecutor(int pages, int max_step_tokens)
    : pages_(pages),
      max_step_tokens_(max_step_tokens),
      kv_(static_cast<size_t>(pages) * kPageTokens, -1) {}

TokenId FakeExecutor::NextToken(absl::Span<const TokenId> tokens) {
  uint64_t hash = 14695981039346656037u;  // FNV-1a
  for (const TokenId token : tokens) {
    hash = (hash ^ static_cast<uint64_t>(token)) * 1099511628211u;
  }
  return 'a' + static_cast<TokenId>((hash >> 32) % 26);
}

absl::StatusOr<StepResult> FakeExecutor::Step(const StepPlan& plan) {
  ++steps_;
  if (on_step) {
    const absl::Status status = on_step(plan);
    if (!status.ok()) return status;
  }
  CheckPlan(plan);
  for (const PageCopy& copy : plan.page_copies) {
    std::copy_n(kv_.begin() + int64_t{copy.from} * kPageTokens, kPageTokens,
                kv_.begin() + int64_t{copy.to} * kPageTokens);
  }
  StepResult result;
  for (const StepSlice& slice : plan.slices) {
    result.slices.push_back(RunSlice(slice));
  }
  return result;
}

void FakeExecutor::CheckPlan(const StepPlan& plan) {
  int tokens = 0;
  bool prefill_seen = false;
  std::set<SequenceId> sequences;
  std::map<PageId, int> uses;
  for (const StepSlice& slice : plan.slices) {
    for (const PageId page : slice.pages) ++uses[page];
  }
  for (const StepSlice& slice : plan.slices) {
    tokens += static_cast<int>(slice.tokens.size());
    const bool prefill = slice.phase == Phase::kPrefill;
    if (!prefill && prefill_seen) {
      breaches_.push_back("a decode slice after a prefill slice");
    }
    prefill_seen |= prefill;
    if (!sequences.insert(slice.sequence).second) {
      breaches_.push_back(absl::StrCat("sequence ", slice.sequence, " twice"));
    }
    for (size_t i = slice.first_position / kPageTokens; i < slice.pages.size();
         ++i) {
      if (uses[slice.pages[i]] > 1) {
        breaches_.push_back(absl::StrCat("page ", slice.pages[i],
                                         " is written and in two places"));
      }
    }
    CheckSlice(slice);
  }
  if (plan.slices.empty()) breaches_.push_back("an empty plan");
  if (tokens > max_step_tokens_) {
    breaches_.push_back(absl::StrCat(tokens, " tokens in a step of at most ",
                                     max_step_tokens_));
  }
}

void FakeExecutor::CheckSlice(const StepSlice& slice) {
  const auto breach = [&](absl::string_view what) {
    breaches_.push_back(absl::StrCat("sequence ", slice.sequence, ": ", what));
  };
  const int end = slice.first_position + static_cast<int>(slice.tokens.size());
  const int all = static_cast<int>(slice.prompt.size() + slice.output.size());
  if (slice.tokens.empty()) breach("no tokens");
  if (static_cast<int>(slice.pages.size()) * kPageTokens < end) {
    breach("its pages do not cover its tokens");
  }
  for (const PageId page : slice.pages) {
    if (page < 0 || page >= pages_) breach("a page out of range");
  }
  if (slice.wants_token != (end == all)) {
    breach("draws other than after its last token");
  }
  if (slice.wants_token && slice.sampling == nullptr) breach("no sampling");
  const int prompt = static_cast<int>(slice.prompt.size());
  if (slice.phase == Phase::kDecode && slice.first_position < prompt) {
    breach("decodes tokens of its prompt");
  }
  if (slice.phase == Phase::kPrefill && end > prompt) {
    breach("a prompt's chunk beyond the prompt");
  }
  if (slice.phase == Phase::kPrefill && end != prompt &&
      end % (kPageTokens / 2) != 0) {
    breach("a chunk that ends inside half a page");
  }
}

SliceResult FakeExecutor::RunSlice(const StepSlice& slice) {
  SliceResult result;
  if (slice_status) result.status = slice_status(slice);
  if (!result.status.ok()) return result;
  const auto slot = [&](int position) -> TokenId& {
    const size_t page = slice.pages[position / kPageTokens];
    return kv_[page * kPageTokens + position % kPageTokens];
  };
  const int end = slice.first_position + static_cast<int>(slice.tokens.size());
  int64_t visited_if_sparse = 0;
  for (int position = slice.first_position; position < end; ++position) {
    slot(position) = slice.tokens[position - slice.first_position];
    // A block of 64 queries may visit the blocks up to its own.
    if (position == slice.first_position || position % kPageTokens == 0) {
      result.blocks.allowed += position / kPageTokens + 1;
      visited_if_sparse += position < kPageTokens ? 1 : 2;
    }
  }
  result.blocks.computed =
      IsDense(slice) ? result.blocks.allowed : visited_if_sparse;
  std::fill(slice.recall.begin(), slice.recall.end(),
            IsDense(slice) ? 1.0f : 0.5f);
  if (slice.profile != nullptr) AddTo(*slice.profile, result.blocks);
  if (!slice.wants_token) return result;

  std::vector<TokenId> stored;
  for (int position = 0; position < end; ++position) {
    stored.push_back(slot(position));
  }
  result.token = draw ? draw(slice) : NextToken(stored);
  if (slice.sampling->logprobs >= 0) {
    result.chosen = {result.token, -0.5f};
    for (int i = 0; i < slice.sampling->logprobs; ++i) {
      result.alternatives.push_back({i, -1.0f - static_cast<float>(i)});
    }
  }
  return result;
}

}  // namespace sparseserve::testing
