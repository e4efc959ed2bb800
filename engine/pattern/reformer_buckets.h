#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/pattern/encoder_patterns.h"
#include "engine/tensor/tensor_view.h"

namespace sparseserve {

// How vectors are hashed: in every round of a head they are turned by a random
// matrix, and the greatest of the turned elements and of their negatives is the
// bucket. Several factors are hashes of their own, whose numbers are the digits
// of the bucket, the first one's the lowest.
struct ReformerHash {
  int32_t heads = 0;
  int32_t head_dim = 0;
  int32_t rounds = 1;
  std::vector<int32_t> factors;  // each even; one of them is the usual case

  // Columns of a turned vector: half of all factors' sum.
  int64_t rotation_columns() const;
};

// As transformers chooses for a sequence where a configuration does not say.
// INVALID_ARGUMENT if the tokens are fewer than a chunk has, or more than the
// model has positions.
absl::StatusOr<std::vector<int32_t>> ReformerFactors(
    const ReformerLshPattern& pattern, int32_t tokens, int32_t most_tokens);

// [heads, head_dim, rounds, rotation_columns()] normal draws, from 16 on those
// of torch.manual_seed(seed) and torch.randn() of doubles. They are the
// rotations of transformers' hash_seed for a module in double precision alone:
// it draws in the type of its vectors, and torch draws others in floats or
// bf16; buckets of such a module need its own rotations. Without hash_seed it
// draws anew in every call, and any seed is as good.
absl::StatusOr<std::vector<double>> DrawReformerRotations(
    const ReformerHash& hash, uint32_t seed);

// What is hashed.
struct ReformerVectors {
  std::vector<bool> is_real;  // [tokens]; false for padding
  ConstMatrixView vectors;    // [tokens, heads * head_dim]: queries and keys
  std::vector<double> rotations;
};

// ReformerTokens::buckets, those of a round above those of the round before. Of
// equal elements the first is the greatest. Where there is padding, its bucket
// is one more than the others, of its own. Sums are double and in the order of
// elements. INVALID_ARGUMENT names what does not fit, or is not finite, or
// would take minutes.
absl::StatusOr<std::vector<int32_t>> ReformerBuckets(
    const ReformerLshPattern& pattern, const ReformerHash& hash,
    const ReformerVectors& given);

}  // namespace sparseserve
