#pragma once

#include <random>

#include "tests/engine/backend/cuda/attention_batch.h"

namespace sparseserve::cuda {

// What tests fill a batch's lists with.
enum class ListKind {
  kDense,     // all that causality shows; KV heads share lists
  kRandom,    // a third of what comes before the diagonal, each KV head's own
  kDiagonal,  // nothing but the diagonal
  kWithoutSelf,  // random full blocks alone; tiles of a first block see nothing
  kMasked,       // random bits in half of the blocks; some rows see nothing
};
inline constexpr ListKind kAllListKinds[] = {
    ListKind::kDense, ListKind::kRandom, ListKind::kDiagonal,
    ListKind::kWithoutSelf, ListKind::kMasked};
const char* NameOf(ListKind kind);

// Lists for every tile and KV head of the batch.
void FillLists(ListKind kind, std::mt19937& random, HostBatch& batch);

// Longest list first, KV head by KV head.
void OrderByLength(HostBatch& batch);

}  // namespace sparseserve::cuda
