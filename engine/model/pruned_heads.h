#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"

namespace sparseserve {

struct ModelConfig;

// KV heads of one layer that a model is to do without, and with them the query
// heads that share them (head pruning: Michel et al., arXiv 1905.10650; Voita
// et al., arXiv 1905.09418). Their output counts as 0, so their rows of the
// query, key and value weights and their columns of the output weights are
// never loaded.
struct PrunedHeads {
  int layer = 0;
  std::vector<int> kv_heads;
};

// Notes them in the layers of `config`. INVALID_ARGUMENT names a layer or head
// that the model has not, with what it has, or says that no head is left.
absl::Status PruneHeads(absl::Span<const PrunedHeads> pruned,
                        ModelConfig& config);

}  // namespace sparseserve
