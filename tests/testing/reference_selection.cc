#include "tests/testing/reference_selection.h"

#include <cmath>

#include "engine/tensor/quant_blocks.h"

namespace sparseserve {
namespace {

double KeyElement(const SelectArgs& args, const QueryTile& tile, int kv_head,
                  int position, int i) {
  const KvLayerView& kv = args.kv;
  const int64_t page = args.pages[tile.slice][position / kPageTokens];
  const int64_t index =
      ((page * kv.kv_heads + kv_head) * kPageTokens + position % kPageTokens) *
          kv.head_dim +
      i;
  return kv.dtype == DType::kBF16
             ? BFloat16ToFloat(reinterpret_cast<uint16_t*>(kv.keys)[index])
             : reinterpret_cast<float*>(kv.keys)[index];
}

// Mean score of the antidiagonal of query group t and key group u.
double GroupScore(const SelectArgs& args, const QueryTile& tile, int kv_head,
                  int head, int t, int u, int stride) {
  const int end = tile.first_position + tile.rows;
  double sum = 0;
  for (int s = 0; s < stride; ++s) {
    const int query = t * stride + stride - 1 - s;
    const int key = u * stride + s;
    if (query < tile.first_position || query >= end || key >= end) continue;
    const float* row =
        args.queries.row(tile.first_row + query - tile.first_position) +
        head * args.kv.head_dim;
    for (int i = 0; i < args.kv.head_dim; ++i) {
      sum += row[i] * KeyElement(args, tile, kv_head, key, i);
    }
  }
  const double mean = sum * args.scale / stride;
  return args.softcap == 0 ? mean
                           : args.softcap * std::tanh(mean / args.softcap);
}

}  // namespace

std::vector<double> ReferenceAntidiagonalScores(const SelectArgs& args,
                                                const QueryTile& tile,
                                                int kv_head, int stride) {
  const int last = tile.first_position + tile.rows - 1;
  std::vector<double> scores(last / kPageTokens + 1);
  const int group = args.heads / args.kv.kv_heads;
  for (int head = kv_head * group; head < (kv_head + 1) * group; ++head) {
    for (int t = tile.first_position / stride; t <= last / stride; ++t) {
      std::vector<double> weights;
      double sum = 0;
      for (int u = 0; u <= t; ++u) {
        weights.push_back(
            std::exp(GroupScore(args, tile, kv_head, head, t, u, stride)));
        sum += weights.back();
      }
      for (int u = 0; u <= t; ++u) {
        scores[u * stride / kPageTokens] += weights[u] / sum;
      }
    }
  }
  return scores;
}

std::vector<bool> ReferenceMassChoice(const std::vector<double>& scores,
                                      double share) {
  double total = 0;
  for (const double score : scores) total += score;
  std::vector<bool> chosen(scores.size());
  chosen.front() = true;
  chosen.back() = true;
  double mass = scores.front() + (scores.size() > 1 ? scores.back() : 0);
  while (mass < share * total) {
    int best = -1;
    for (size_t i = 0; i < scores.size(); ++i) {
      if (!chosen[i] && (best < 0 || scores[i] > scores[best])) {
        best = static_cast<int>(i);
      }
    }
    if (best < 0) break;
    chosen[best] = true;
    mass += scores[best];
  }
  return chosen;
}

}  // namespace sparseserve
