#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "engine/attention/pass_attention.h"
#include "engine/backend/backend.h"
#include "engine/pattern/nsa_passes.h"

namespace sparseserve {

// Runs the three attentions of NsaPattern over one sequence and adds their
// outputs: sum over branches of gate * output, a softmax each. Keeps its memory
// between calls, in the host's, which the backend must be able to read. One
// thread.
class NsaAttention {
 public:
  // Keys and values are stored in `kv_dtype`, kF32 or kBF16.
  NsaAttention(Backend& backend, DType kv_dtype);

  struct Args {
    // [tokens, heads * head_dim]; keys and values of a KV head are given for
    // each of its query heads.
    PassProjection projection;
    // Keys and values of the same form that stand for several tokens:
    // [NsaCompressedKeys(tokens), heads * head_dim], by whatever pooling the
    // checkpoint learned.
    ConstMatrixView compressed_keys;
    ConstMatrixView compressed_values;
    int32_t heads = 0;
    int32_t kv_heads = 0;
    int32_t head_dim = 0;
    float scale = 1.0f;  // multiplies q . k before every softmax
    // Of the compressed branch, the selected and the window's: [tokens, heads].
    ConstMatrixView gates[3];
    MatrixView output;  // [tokens, heads * head_dim]
  };
  // INVALID_ARGUMENT names what does not fit. REQUIRES: views of these shapes.
  absl::Status Run(const NsaPattern& pattern, const Args& args);

  // The weights of one row's softmax over the compressed keys that it sees, of
  // the query heads of a KV head: what SelectNsaBlocks() takes.
  static std::vector<double> CompressedWeights(const NsaPattern& pattern,
                                               const Args& args, int32_t row,
                                               int32_t kv_head);

 private:
  // output += gate * what a branch yields.
  void Add(const AttentionPasses& passes, const PassProjection& projection,
           const ConstMatrixView& gates, const Args& args);

  PassAttention pass_attention_;
  std::vector<float> branch_;  // [tokens, heads * head_dim]
};

}  // namespace sparseserve
