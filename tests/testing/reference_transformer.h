#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/types/span.h"
#include "engine/model/gguf_file.h"
#include "engine/step.h"

namespace sparseserve::testing {

// The forward pass of a llama model in double precision, a whole sequence at a
// time, written from the papers and sharing nothing with the engine but the
// file reader and the expansion of stored blocks. Slow and obvious.
class ReferenceTransformer {
 public:
  // True if, for this KV head of a layer, the query at position `row` sees the
  // key at position `column` (<= row).
  using Visible =
      std::function<bool(int layer, int kv_head, int row, int column)>;

  // The row from whose attention, over all keys at or before it less over those
  // that it sees, this KV head's attention at position `row` is corrected: the
  // difference is added (Willette et al., arXiv 2505.11254). -1: it is not.
  using CorrectedBy = std::function<int(int layer, int kv_head, int row)>;

  // REQUIRES: a complete llama file, such as TinyModel's.
  explicit ReferenceTransformer(const GgufFile& file);

  // Logits of every position, [tokens][vocab].
  std::vector<std::vector<double>> Logits(
      absl::Span<const TokenId> tokens, const Visible& visible = {},
      const CorrectedBy& corrected = {}) const;

  // Of every position, [tokens][layers * heads]: the share of the softmax over
  // all keys at or before it that falls on the visible ones.
  std::vector<std::vector<double>> Recall(absl::Span<const TokenId> tokens,
                                          const Visible& visible) const;

 private:
  using Vector = std::vector<double>;
  struct Matrix {
    int rows = 0;
    int columns = 0;
    Vector values;  // [rows, columns]

    Vector Times(const Vector& input) const;
  };
  struct Layer {
    Vector attention_norm, mlp_norm;
    Matrix q, k, v, attention_output, gate, up, down;
  };

  Vector Norm(const Vector& input, const Vector& gain) const;
  void Rotate(Vector& heads, int position) const;
  // What a forward pass does otherwise than dense attention, if anything.
  struct Pass {
    const Visible& visible;
    const CorrectedBy& corrected;
    std::vector<Vector>* recall = nullptr;  // what is added to
  };
  // States behind the last layer.
  std::vector<Vector> Run(absl::Span<const TokenId> tokens,
                          const Pass& pass) const;
  // Adds the attention half of a layer to every position's state.
  void Attend(int layer_index, const Pass& pass,
              std::vector<Vector>& states) const;
  void AddMlp(const Layer& layer, Vector& state) const;

  int heads_, kv_heads_, head_dim_;
  double epsilon_, rope_base_;
  Matrix embedding_, head_;
  Vector output_norm_;
  std::vector<Layer> layers_;
};

}  // namespace sparseserve::testing
