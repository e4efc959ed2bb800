#include "engine/attention/nsa_attention.h"

#include <algorithm>
#include <cmath>

#include "absl/types/span.h"
#include "engine/base/status_macros.h"

namespace sparseserve {

NsaAttention::NsaAttention(Backend& backend, DType kv_dtype)
    : pass_attention_(backend, kv_dtype) {}

absl::Status NsaAttention::Run(const NsaPattern& pattern, const Args& args) {
  RETURN_IF_ERROR(CheckNsaCounts(pattern, args.projection.queries.rows,
                                 args.heads, args.kv_heads));
  NsaTokens tokens = {
      .tokens = static_cast<int32_t>(args.projection.queries.rows),
      .heads = args.heads,
      .kv_heads = args.kv_heads};
  for (int32_t row = 0; row < tokens.tokens; ++row) {
    for (int32_t head = 0; head < args.kv_heads; ++head) {
      tokens.blocks.push_back(SelectNsaBlocks(
          pattern, row, CompressedWeights(pattern, args, row, head)));
    }
  }
  ASSIGN_OR_RETURN(const NsaPasses passes, MakeNsaPasses(pattern, tokens));
  std::fill_n(args.output.row(0), args.output.rows * args.output.columns, 0.0f);
  const PassProjection compressed = {
      args.projection.queries, args.compressed_keys, args.compressed_values};
  Add(passes.compressed, compressed, args.gates[0], args);
  Add(passes.selected, args.projection, args.gates[1], args);
  Add(passes.window, args.projection, args.gates[2], args);
  return absl::OkStatus();
}

std::vector<double> NsaAttention::CompressedWeights(const NsaPattern& pattern,
                                                    const Args& args,
                                                    int32_t row,
                                                    int32_t kv_head) {
  const int32_t keys = NsaCompressedKeys(pattern, int64_t{row} + 1);
  const int32_t group = args.heads / args.kv_heads;
  std::vector<double> weights;
  if (keys == 0) return weights;
  for (int32_t head = kv_head * group; head < (kv_head + 1) * group; ++head) {
    const int64_t column = int64_t{head} * args.head_dim;
    const float* const query = args.projection.queries.row(row) + column;
    const size_t begin = weights.size();
    for (int32_t k = 0; k < keys; ++k) {
      const float* const key = args.compressed_keys.row(k) + column;
      double score = 0;
      for (int32_t i = 0; i < args.head_dim; ++i) {
        score += double{query[i]} * key[i];
      }
      weights.push_back(score * args.scale);
    }
    const auto of_head = absl::MakeSpan(weights).subspan(begin);
    const double greatest = *std::max_element(of_head.begin(), of_head.end());
    double sum = 0;
    for (double& weight : of_head) {
      weight = std::exp(weight - greatest);
      sum += weight;
    }
    for (double& weight : of_head) weight /= sum;
  }
  return weights;
}

void NsaAttention::Add(const AttentionPasses& passes,
                       const PassProjection& projection,
                       const ConstMatrixView& gates, const Args& args) {
  // Nothing stands there where a sequence has no compressed key yet.
  if (passes.passes[0].layout.tiles.empty()) return;
  branch_.resize(args.output.rows * args.output.columns);
  const MatrixView branch = {branch_.data(), args.output.rows,
                             args.output.columns};
  pass_attention_.Run(passes,
                      {.projections = absl::MakeConstSpan(&projection, 1),
                       .head_dim = args.head_dim,
                       .scale = args.scale,
                       .output = branch});
  for (int64_t row = 0; row < args.output.rows; ++row) {
    for (int64_t c = 0; c < args.output.columns; ++c) {
      args.output.row(row)[c] +=
          gates.row(row)[c / args.head_dim] * branch.row(row)[c];
    }
  }
}

}  // namespace sparseserve
