#include "engine/backend/cpu/weight_profiling.h"

#include <algorithm>
#include <cmath>
#include <functional>

#include "engine/base/check.h"
#include "engine/tensor/quant_blocks.h"

namespace sparseserve::cpu {
namespace {

static_assert(kBlockKeys == kPageTokens);

// The first key that a row at `position` sees.
int32_t FirstKey(const ProfileArgs& args, int32_t position) {
  if (args.window_tokens == 0) return 0;
  return std::max(0, position - args.window_tokens + 1);
}

const std::byte* KeysOf(const ProfileArgs& args, const QueryTile& tile,
                        int32_t head, int32_t block) {
  const KvLayerView& kv = args.kv;
  const absl::Span<const PageId> pages = args.pages[tile.slice];
  SPARSESERVE_CHECK(block < static_cast<int64_t>(pages.size()));
  const PageId page = pages[block];
  SPARSESERVE_CHECK(page >= 0 && page < kv.pages);
  const int32_t kv_head = head / (args.heads / kv.kv_heads);
  return kv.keys + (int64_t{page} * kv.kv_heads + kv_head) * kBlockKeys *
                       kv.head_dim * BlockBytes(kv.dtype);
}

// The first keys' weights by distance, while their block is at hand.
void AddSinkDistances(const QueryTile& tile, const ProfileScratch& scratch,
                      WeightSums& sums) {
  for (int r = 0; r < tile.rows; ++r) {
    const int32_t position = tile.first_position + r;
    for (int32_t key = 0; key < std::min(kSinkKeys, position + 1); ++key) {
      sums.sink_distances[position - key] +=
          scratch.weights[r * kBlockKeys + key];
    }
  }
}

void AddEntropies(const ProfileArgs& args, const QueryTile& tile,
                  const ProfileScratch& scratch, WeightSums& sums) {
  for (int r = 0; r < tile.rows; ++r) {
    const int32_t position = tile.first_position + r;
    const int32_t seen = position + 1 - FirstKey(args, position);
    // Rounding may put it a little below 0.
    const double entropy = std::max(scratch.entropy[r], 0.0f);
    sums.entropy += entropy;
    if (seen > 1) sums.relative_entropy += entropy / std::log(seen);
    sums.effective_keys += std::exp(entropy);
  }
}

void AddDistances(const QueryTile& tile, const ProfileScratch& scratch,
                  WeightSums& sums) {
  // Distance 0 of row r is at kBlockKeys - 1 + its position - r.
  const int32_t zero = tile.first_position + kBlockKeys - 1;
  const int32_t end = tile.first_position + tile.rows;
  for (int32_t distance = 0; distance < end; ++distance) {
    sums.distances[distance] += scratch.diagonals[zero - distance];
  }
}

// NaN has no place in an order. Its slice fails, so nobody sees what is left.
template <typename Float>
Float OrderedWeight(Float weight) {
  return std::isnan(weight) ? Float{0} : weight;
}

// Sorts `blocks`, weights summed over the tile's rows.
void AddHeaviestBlocks(int rows, std::vector<double>& blocks,
                       WeightSums& sums) {
  std::sort(blocks.begin(), blocks.end(), std::greater<>());
  double weight = 0;
  for (size_t b = 0; b < sums.heaviest_blocks.size(); ++b) {
    if (b < blocks.size()) weight += blocks[b];
    sums.heaviest_blocks[b] += weight / rows;
  }
}

// The heaviest of a row that sees [first_key, weights.size()).
void FindHeaviest(const std::vector<float>& weights, int32_t first_key,
                  std::vector<AttendedKey>& ordered,
                  absl::Span<AttendedKey> heaviest) {
  ordered.clear();
  for (int32_t key = first_key; key < std::ssize(weights); ++key) {
    ordered.push_back({key, OrderedWeight(weights[key])});
  }
  const size_t count = std::min(ordered.size(), heaviest.size());
  std::partial_sort(ordered.begin(), ordered.begin() + count, ordered.end(),
                    [](const AttendedKey& a, const AttendedKey& b) {
                      return a.weight > b.weight ||
                             (a.weight == b.weight && a.position < b.position);
                    });
  std::fill(heaviest.begin(), heaviest.end(), AttendedKey());
  std::copy_n(ordered.begin(), count, heaviest.begin());
}

}  // namespace

WeightProfiling::WeightProfiling(SimdLevel simd, bool rounds_queries,
                                 ThreadPool& pool)
    : kernels_(ProfileKernelsFor(simd)),
      rounds_queries_(rounds_queries),
      pool_(pool) {
  for (int worker = 0; worker < pool.threads(); ++worker) {
    scratch_.push_back(std::make_unique<Scratch>());
  }
}

void WeightProfiling::Run(const ProfileArgs& args) {
  SPARSESERVE_CHECK(args.heads % args.kv.kv_heads == 0);
  SPARSESERVE_CHECK(args.kv.head_dim % 8 == 0 &&
                    args.kv.head_dim <= kMaxHeadDim);
  pool_.ParallelFor(args.heads, 1, [&](int64_t begin, int64_t end, int worker) {
    for (int64_t head = begin; head < end; ++head) {
      for (const ProfileTile& tile : args.tiles) {
        RunTile(args, tile, static_cast<int32_t>(head), *scratch_[worker]);
      }
    }
  });
}

void WeightProfiling::RunTile(const ProfileArgs& args, const ProfileTile& tile,
                              int32_t head, Scratch& scratch) const {
  const QueryTile& rows = tile.tile;
  const int32_t first_key = FirstKey(args, rows.first_position);
  const int32_t own_block = QueryBlock(rows, kBlockKeys);
  BeginTile(args, rows, head, scratch);
  scratch.blocks.clear();
  scratch.row.assign(int64_t{own_block + 1} * kBlockKeys, 0.0f);
  for (int32_t block = first_key / kBlockKeys; block <= own_block; ++block) {
    AddBlock(args, tile, head, block, scratch);
  }
  if (tile.sums != nullptr) {
    WeightSums& sums = tile.sums[head];
    AddEntropies(args, rows, scratch.kernel, sums);
    AddDistances(rows, scratch.kernel, sums);
    AddHeaviestBlocks(rows.rows, scratch.blocks, sums);
  }
  if (!tile.heaviest.empty()) {
    SPARSESERVE_CHECK(rows.rows == 1);
    const size_t count = tile.heaviest.size() / args.heads;
    scratch.row.resize(rows.first_position + 1);
    FindHeaviest(scratch.row, first_key, scratch.ordered,
                 tile.heaviest.subspan(head * count, count));
  }
}

void WeightProfiling::BeginTile(const ProfileArgs& args, const QueryTile& tile,
                                int32_t head, Scratch& scratch) const {
  ProfileScratch& kernel = scratch.kernel;
  const int head_dim = args.kv.head_dim;
  const bool rounds = rounds_queries_ && args.kv.dtype == DType::kBF16;
  if (rounds) scratch.queries.resize(int64_t{tile.rows} * head_dim);
  for (int r = 0; r < tile.rows; ++r) {
    const int64_t row = tile.first_row + r;
    const float* query = args.queries.row(row) + head * head_dim;
    if (rounds) {
      float* rounded = scratch.queries.data() + r * head_dim;
      std::transform(query, query + head_dim, rounded, [](float value) {
        return BFloat16ToFloat(FloatToBFloat16(value));
      });
      query = rounded;
    }
    kernel.queries[r] = query;
    kernel.lse[r] = args.lse[row * args.heads + head];
    kernel.entropy[r] = 0.0f;
  }
  const int64_t end = tile.first_position + tile.rows;
  kernel.diagonals.assign(end + 2 * kBlockKeys + ProfileScratch::kSlack, 0.0f);
}

void WeightProfiling::AddBlock(const ProfileArgs& args, const ProfileTile& tile,
                               int32_t head, int32_t block,
                               Scratch& scratch) const {
  const QueryTile& rows = tile.tile;
  ProfileScratch& kernel = scratch.kernel;
  const int32_t first_key = block * kBlockKeys;
  for (int r = 0; r < rows.rows; ++r) {
    const int32_t position = rows.first_position + r;
    const auto within = [first_key](int32_t key) {
      return std::clamp(key - first_key, 0, kBlockKeys);
    };
    kernel.visible_begin[r] = within(FirstKey(args, position));
    kernel.visible_end[r] = within(position + 1);
  }
  const int32_t end = rows.first_position + rows.rows;
  const int loaded_keys = std::min(kBlockKeys, end - first_key);
  kernels_.add_block({.keys = KeysOf(args, rows, head, block),
                      .dtype = args.kv.dtype,
                      .head_dim = args.kv.head_dim,
                      .loaded_keys = loaded_keys,
                      .first_key = first_key,
                      .rows = rows.rows,
                      .scale = args.scale,
                      .softcap = args.softcap},
                     kernel);
  std::copy_n(kernel.weights, loaded_keys, scratch.row.begin() + first_key);
  if (tile.sums == nullptr) return;
  WeightSums& sums = tile.sums[head];
  double weight = 0;
  for (int key = 0; key < loaded_keys; ++key) {
    sums.keys[first_key + key] += kernel.key_weights[key];
    weight += kernel.key_weights[key];
  }
  scratch.blocks.push_back(OrderedWeight(weight));
  if (block == 0) AddSinkDistances(rows, kernel, sums);
}

}  // namespace sparseserve::cpu
