#pragma once

// What a query may see where the tokens' content decides: given the choices
// that the content led to (buckets, scores), not the vectors. See
// encoder_rules.h.

#include <cstdint>
#include <vector>

#include "tests/testing/rule_attention.h"

namespace sparseserve::testing {

// Kitaev et al. 2020, arXiv 2001.04451, as released. In each round tokens are
// sorted by bucket, and the sorted tokens of all rounds, one after another, cut
// into chunks. A chunk sees itself and its neighbours, the first chunk being
// the last one's neighbour, whatever their buckets and rounds. A row sees
// itself only if it sees nothing else. Outputs of the rounds merge by their
// LSE.
struct ReformerLshRule {
  int64_t chunk = 64;  // with no more tokens than this, attention is dense
  int64_t chunks_before = 1;
  int64_t chunks_after = 0;
  bool causal = true;
  // [rounds][tokens]; those of a round exceed those of the rounds before.
  std::vector<std::vector<int64_t>> buckets;
  std::vector<bool> real;  // [tokens]

  // Of one round. A token that lies in two of the chunks counts twice.
  VisibleKeys Keys(int64_t round, int64_t row) const;
  // [rounds * tokens]: round * tokens + token in the order of the sort.
  std::vector<int64_t> Order() const;

  static constexpr double kSelf = -1e5;  // the bias of a row that sees itself
};

// The same paper's chunks without a sort. The ring of chunks is closed too: a
// first chunk that is not causal sees the last.
struct ReformerLocalRule {
  int64_t chunk = 64;
  int64_t chunks_before = 1;
  int64_t chunks_after = 0;
  bool causal = true;
  std::vector<bool> real;  // [tokens]

  VisibleKeys Keys(int64_t row) const;
};

// Roy et al. 2020, arXiv 2003.05997. Each cluster takes the `capacity` queries
// and keys that lie nearest to its centroid (ties: the earlier token). A
// query's output is the mean over the clusters that took it, zero if none did.
struct RoutingRule {
  int64_t capacity = 1;
  bool causal = true;
  // [clusters][tokens]: a centroid's product with each query or key.
  std::vector<std::vector<double>> query_scores, key_scores;
  std::vector<bool> real;  // [tokens]; empty: all. No cluster takes others.

  std::vector<int64_t> ClustersOf(int64_t row) const;
  // REQUIRES: `cluster` is one of ClustersOf(row).
  VisibleKeys Keys(int64_t cluster, int64_t row) const;
};

// Lu et al. 2025, arXiv 2502.13189: a query sees the start of its own block and
// the `most_blocks` - 1 earlier blocks whose mean key it likes best (ties: the
// earlier block).
struct MobaRule {
  int64_t block = 512;
  int64_t most_blocks = 3;

  VisibleKeys Keys(int64_t row, absl::Span<const double> query,
                   const Rows& keys) const;
};

}  // namespace sparseserve::testing
