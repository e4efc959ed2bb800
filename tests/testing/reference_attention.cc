#include "tests/testing/reference_attention.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "engine/tensor/quant_blocks.h"

namespace sparseserve {
namespace {

// The keys of a list, in double precision.
struct ListedKeys {
  std::vector<int64_t> positions;  // [keys]
  std::vector<bool> is_full;       // [keys]: of a full block
  const KeyPredicate* predicate = nullptr;
  std::vector<double> keys;    // [keys, head_dim]
  std::vector<double> values;  // [keys, head_dim]
};

double Element(const KvLayerView& kv, const std::byte* from, int64_t index) {
  if (kv.dtype == DType::kBF16) {
    return BFloat16ToFloat(reinterpret_cast<const uint16_t*>(from)[index]);
  }
  return reinterpret_cast<const float*>(from)[index];
}

void AppendBlock(const AttentionArgs& args, const QueryTile& tile,
                 int64_t block, int kv_head, ListedKeys& listed) {
  const KvLayerView& kv = args.kv;
  const PageId page = args.pages[tile.slice][block];
  for (int offset = 0; offset < kPageTokens; ++offset) {
    const int64_t first =
        ((int64_t{page} * kv.kv_heads + kv_head) * kPageTokens + offset) *
        kv.head_dim;
    listed.positions.push_back(block * kPageTokens + offset);
    const size_t to = listed.keys.size();
    listed.keys.resize(to + kv.head_dim);
    listed.values.resize(to + kv.head_dim);
    for (int i = 0; i < kv.head_dim; ++i) {
      listed.keys[to + i] = Element(kv, kv.keys, first + i);
      listed.values[to + i] = Element(kv, kv.values, first + i);
    }
  }
}

ListedKeys Gather(const AttentionArgs& args, const QueryTile& tile,
                  int32_t list, int kv_head) {
  const BlockLayout& layout = *args.layout;
  ListedKeys listed;
  listed.predicate = layout.PredicateOf(list);
  for (int64_t i = layout.full_offsets[list]; i < layout.full_offsets[list + 1];
       ++i) {
    AppendBlock(args, tile, layout.full_blocks[i], kv_head, listed);
  }
  listed.is_full.assign(listed.positions.size(), true);
  for (int64_t i = layout.partial_offsets[list];
       i < layout.partial_offsets[list + 1]; ++i) {
    AppendBlock(args, tile, layout.partial_blocks[i], kv_head, listed);
  }
  listed.is_full.resize(listed.positions.size(), false);
  return listed;
}

bool IsVisible(const ListedKeys& listed, size_t key, int position) {
  if (listed.is_full[key]) return true;
  if (listed.positions[key] > position) return false;
  return listed.predicate == nullptr ||
         listed.predicate->Sees(position, listed.positions[key]);
}

// Four sums: one alone would wait for each addition.
double Dot(const float* a, const double* b, int size) {
  double sums[4] = {};
  int i = 0;
  for (; i + 4 <= size; i += 4) {
    for (int s = 0; s < 4; ++s) sums[s] += a[i + s] * b[i + s];
  }
  for (; i < size; ++i) sums[0] += a[i] * b[i];
  return (sums[0] + sums[1]) + (sums[2] + sums[3]);
}

// Attention of one query at `position`; returns the log-sum-exp.
double AttendRow(const AttentionArgs& args, const float* query, int position,
                 const ListedKeys& listed, double* output) {
  const int head_dim = args.kv.head_dim;
  std::vector<size_t> seen;
  std::vector<double> scores;
  for (size_t k = 0; k < listed.positions.size(); ++k) {
    if (!IsVisible(listed, k, position)) continue;
    seen.push_back(k);
    const double score =
        Dot(query, listed.keys.data() + k * head_dim, head_dim) * args.scale;
    scores.push_back(args.softcap == 0
                         ? score
                         : args.softcap * std::tanh(score / args.softcap));
  }
  if (seen.empty()) return -std::numeric_limits<double>::infinity();
  const double maximum = *std::max_element(scores.begin(), scores.end());
  double sum = 0;
  for (double& score : scores) {
    score = std::exp(score - maximum);
    sum += score;
  }
  for (size_t k = 0; k < seen.size(); ++k) {
    const double weight = scores[k] / sum;
    for (int i = 0; i < head_dim; ++i) {
      output[i] += weight * listed.values[seen[k] * head_dim + i];
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
    for (int kv_head = 0; kv_head < args.kv.kv_heads; ++kv_head) {
      const ListedKeys listed = Gather(
          args, tile, layout.list_of[t * layout.kv_heads + kv_head], kv_head);
      for (int r = 0; r < tile.rows; ++r) {
        for (int g = 0; g < group; ++g) {
          const int head = kv_head * group + g;
          const int64_t row = tile.first_row + r;
          result.lse[row * args.heads + head] = AttendRow(
              args, args.queries.row(row) + head * head_dim,
              tile.first_position + r, listed,
              result.output.data() + (row * args.heads + head) * head_dim);
        }
      }
    }
  }
  return result;
}

}  // namespace sparseserve
