#include "engine/tokenizer/pair_merger.h"

#include <algorithm>
#include <limits>

namespace sparseserve {
namespace {

constexpr uint32_t kNone = std::numeric_limits<uint32_t>::max();
constexpr TokenId kMergedAway = -1;

uint64_t KeyOf(TokenId left, TokenId right) {
  return static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 |
         static_cast<uint32_t>(right);
}

// Orders a heap so that the lowest rank, then the leftmost, is on top.
bool ComesLater(const PairMerger::Scratch::Candidate& a,
                const PairMerger::Scratch::Candidate& b) {
  return a.rank != b.rank ? a.rank > b.rank : a.position > b.position;
}

}  // namespace

bool PairMerger::Add(TokenId left, TokenId right, TokenId merged) {
  return Add(left, right, merged, static_cast<uint32_t>(rules_.size()));
}

bool PairMerger::Add(TokenId left, TokenId right, TokenId merged,
                     uint32_t rank) {
  return rules_.emplace(KeyOf(left, right), Rule{rank, merged}).second;
}

const PairMerger::Rule* PairMerger::Find(TokenId left, TokenId right) const {
  const auto found = rules_.find(KeyOf(left, right));
  return found == rules_.end() ? nullptr : &found->second;
}

int64_t PairMerger::Apply(std::vector<TokenId>& symbols,
                          Scratch& scratch) const {
  const uint32_t count = static_cast<uint32_t>(symbols.size());
  // Not a structured binding: clang 14 lets no lambda capture one.
  std::vector<uint32_t>& previous = scratch.previous;
  std::vector<uint32_t>& next = scratch.next;
  std::vector<Scratch::Candidate>& queue = scratch.queue;
  previous.resize(count);
  next.resize(count);
  queue.clear();
  int64_t pushes = 0;

  // The symbols are a linked list: a merge keeps the left node.
  const auto push = [&](uint32_t left) {
    if (left == kNone || next[left] == kNone) return;
    const Rule* rule = Find(symbols[left], symbols[next[left]]);
    if (rule == nullptr) return;
    queue.push_back({rule->rank, left});
    std::push_heap(queue.begin(), queue.end(), ComesLater);
    ++pushes;
  };
  for (uint32_t i = 0; i < count; ++i) {
    previous[i] = i == 0 ? kNone : i - 1;
    next[i] = i + 1 == count ? kNone : i + 1;
  }
  for (uint32_t i = 0; i < count; ++i) push(i);

  while (!queue.empty()) {
    std::pop_heap(queue.begin(), queue.end(), ComesLater);
    const Scratch::Candidate best = queue.back();
    queue.pop_back();
    const uint32_t left = best.position;
    const uint32_t right = next[left];
    if (symbols[left] == kMergedAway || right == kNone) continue;
    const Rule* rule = Find(symbols[left], symbols[right]);
    // Another merge may have changed the pair since it was queued.
    if (rule == nullptr || rule->rank != best.rank) continue;
    symbols[left] = rule->merged;
    symbols[right] = kMergedAway;
    next[left] = next[right];
    if (next[left] != kNone) previous[next[left]] = left;
    push(previous[left]);
    push(left);
  }
  symbols.erase(std::remove(symbols.begin(), symbols.end(), kMergedAway),
                symbols.end());
  return pushes;
}

}  // namespace sparseserve
