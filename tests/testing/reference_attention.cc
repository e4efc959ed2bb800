#include "tests/testing/reference_attention.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "engine/tensor/quant_blocks.h"

namespace sparseserve {
namespace {

struct Key {
  PageId page = 0;
  int offset = 0;
};

double Element(const KvLayerView& kv, const std::byte* from, int kv_head,
               Key key, int i) {
  const int64_t index =
      ((int64_t{key.page} * kv.kv_heads + kv_head) * kPageTokens + key.offset) *
          kv.head_dim +
      i;
  if (kv.dtype == DType::kBF16) {
    return BFloat16ToFloat(reinterpret_cast<const uint16_t*>(from)[index]);
  }
  return reinterpret_cast<const float*>(from)[index];
}

// The keys that a row at `position` of a tile may see.
std::vector<Key> VisibleKeys(const BlockLayout& layout, int32_t list,
                             absl::Span<const PageId> pages, int position) {
  std::vector<Key> keys;
  for (int64_t i = layout.full_offsets[list]; i < layout.full_offsets[list + 1];
       ++i) {
    for (int offset = 0; offset < kPageTokens; ++offset) {
      keys.push_back({pages[layout.full_blocks[i]], offset});
    }
  }
  for (int64_t i = layout.partial_offsets[list];
       i < layout.partial_offsets[list + 1]; ++i) {
    const int block = layout.partial_blocks[i];
    for (int offset = 0; offset < kPageTokens; ++offset) {
      if (block * kPageTokens + offset <= position) {
        keys.push_back({pages[block], offset});
      }
    }
  }
  return keys;
}

// Attention of one query over `keys`; returns the log-sum-exp.
double AttendRow(const AttentionArgs& args, const float* query, int kv_head,
                 const std::vector<Key>& keys, double* output) {
  if (keys.empty()) return -std::numeric_limits<double>::infinity();
  std::vector<double> scores;
  for (const Key& key : keys) {
    double dot = 0;
    for (int i = 0; i < args.kv.head_dim; ++i) {
      dot += query[i] * Element(args.kv, args.kv.keys, kv_head, key, i);
    }
    scores.push_back(dot * args.scale);
  }
  const double maximum = *std::max_element(scores.begin(), scores.end());
  double sum = 0;
  for (const double score : scores) sum += std::exp(score - maximum);
  for (size_t k = 0; k < keys.size(); ++k) {
    const double weight = std::exp(scores[k] - maximum) / sum;
    for (int i = 0; i < args.kv.head_dim; ++i) {
      output[i] +=
          weight * Element(args.kv, args.kv.values, kv_head, keys[k], i);
    }
  }
  return maximum + std::log(sum);
}

}  // namespace

ReferenceAttentionResult ReferenceAttention(const AttentionArgs& args) {
  const BlockLayout& layout = *args.layout;
  const int group = args.heads / args.kv.kv_heads;
  const int head_dim = args.kv.head_dim;
  ReferenceAttentionResult result;
  result.output.resize(args.queries.rows * args.heads * head_dim);
  result.lse.resize(args.queries.rows * args.heads);
  for (size_t t = 0; t < layout.tiles.size(); ++t) {
    const QueryTile& tile = layout.tiles[t];
    for (int r = 0; r < tile.rows; ++r) {
      const int64_t row = tile.first_row + r;
      for (int head = 0; head < args.heads; ++head) {
        const int kv_head = head / group;
        const std::vector<Key> keys =
            VisibleKeys(layout, layout.list_of[t * layout.kv_heads + kv_head],
                        args.pages[tile.slice], tile.first_position + r);
        result.lse[row * args.heads + head] = AttendRow(
            args, args.queries.row(row) + head * head_dim, kv_head, keys,
            result.output.data() + (row * args.heads + head) * head_dim);
      }
    }
  }
  return result;
}

}  // namespace sparseserve
