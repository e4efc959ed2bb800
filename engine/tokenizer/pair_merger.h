#pragma once

#include <cstdint>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "engine/step.h"

namespace sparseserve {

// The merge rules of a byte-pair vocabulary. Immutable after the last Add();
// then any thread may call Apply().
class PairMerger {
 public:
  // Working memory of Apply(), kept between words. One thread at a time.
  struct Scratch {
    struct Candidate {
      uint32_t rank;
      uint32_t position;  // of the pair's left symbol
    };
    std::vector<uint32_t> previous;
    std::vector<uint32_t> next;
    std::vector<Candidate> queue;
  };

  // Adds the rule that `left right` becomes `merged`, ranked after those added
  // before. False, without change, if the pair has a rule already.
  bool Add(TokenId left, TokenId right, TokenId merged);
  // The same with a rank of the caller's, which rules may share.
  bool Add(TokenId left, TokenId right, TokenId merged, uint32_t rank);

  // Merges neighbours in `symbols` in place until no rule applies: always the
  // lowest rank, leftmost first. Returns the number of pushes onto a binary
  // heap, which is less than 3 * symbols.size(): n symbols take O(n log n).
  // REQUIRES: fewer than 2^31 symbols, none negative.
  int64_t Apply(std::vector<TokenId>& symbols, Scratch& scratch) const;

 private:
  struct Rule {
    uint32_t rank;
    TokenId merged;
  };

  const Rule* Find(TokenId left, TokenId right) const;

  absl::flat_hash_map<uint64_t, Rule> rules_;
};

}  // namespace sparseserve
