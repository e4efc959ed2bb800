#include "tests/testing/selection_oracle.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <utility>

#include "engine/tensor/quant_blocks.h"

namespace sparseserve::testing {
namespace {

using Vector = std::vector<double>;
using Vectors = std::vector<Vector>;

constexpr int kBlock = 64;

int BlocksOf(int tokens) { return (tokens + kBlock - 1) / kBlock; }

// Keys at positions [0, end).
Vectors Keys(const SelectArgs& args, int32_t slice, int kv_head, int end) {
  const KvLayerView& kv = args.kv;
  Vectors keys;
  keys.reserve(end);
  for (int position = 0; position < end; ++position) {
    const int64_t page = args.pages[slice][position / kBlock];
    const int64_t first =
        ((page * kv.kv_heads + kv_head) * kBlock + position % kBlock) *
        kv.head_dim;
    Vector key(kv.head_dim);
    for (int64_t i = 0; i < kv.head_dim; ++i) {
      key[i] =
          kv.dtype == DType::kBF16
              ? BFloat16ToFloat(reinterpret_cast<uint16_t*>(kv.keys)[first + i])
              : reinterpret_cast<float*>(kv.keys)[first + i];
    }
    keys.push_back(std::move(key));
  }
  return keys;
}

Vectors Queries(const SelectArgs& args, const OracleRows& rows, int head) {
  Vectors queries;
  for (int r = 0; r < rows.rows; ++r) {
    const float* from =
        args.queries.row(rows.first_row + r) + head * args.kv.head_dim;
    queries.emplace_back(from, from + args.kv.head_dim);
  }
  return queries;
}

// Four sums: one alone would wait for each addition, and this is most of what
// the oracles do.
double Dot(const Vector& a, const Vector& b) {
  std::array<double, 4> sums = {};
  const size_t size = a.size();
  const double* const x = a.data();
  const double* const y = b.data();
  size_t i = 0;
  for (; i + 4 <= size; i += 4) {
    for (size_t s = 0; s < 4; ++s) sums[s] += x[i + s] * y[i + s];
  }
  for (; i < size; ++i) sums[0] += x[i] * y[i];
  return (sums[0] + sums[1]) + (sums[2] + sums[3]);
}

double ScoreOfProduct(const SelectArgs& args, double product) {
  const double score = product * args.scale;
  return args.softcap == 0 ? score
                           : args.softcap * std::tanh(score / args.softcap);
}

double Score(const SelectArgs& args, const Vector& query, const Vector& key) {
  return ScoreOfProduct(args, Dot(query, key));
}

// Of the first `count` keys.
Vector Scores(const SelectArgs& args, const Vector& query, const Vectors& keys,
              int count) {
  Vector scores(count);
  for (int j = 0; j < count; ++j) scores[j] = Score(args, query, keys[j]);
  return scores;
}

Vector Softmax(Vector scores) {
  const double greatest = *std::max_element(scores.begin(), scores.end());
  double sum = 0;
  for (double& score : scores) sum += score = std::exp(score - greatest);
  for (double& score : scores) score /= sum;
  return scores;
}

Vector Mean(const Vectors& vectors) {
  Vector mean(vectors[0].size());
  for (const Vector& vector : vectors) {
    for (size_t i = 0; i < mean.size(); ++i) mean[i] += vector[i];
  }
  for (double& element : mean) element /= static_cast<double>(vectors.size());
  return mean;
}

// Block by block.
Vectors Means(const Vectors& keys) {
  Vectors means;
  for (size_t first = 0; first < keys.size(); first += kBlock) {
    const size_t end = std::min(first + kBlock, keys.size());
    means.push_back(Mean({keys.begin() + static_cast<int64_t>(first),
                          keys.begin() + static_cast<int64_t>(end)}));
  }
  return means;
}

// Of all pairs, each vector with itself too.
double MeanCosine(const Vectors& vectors) {
  const size_t count = vectors.size();
  Vector lengths(count);
  for (size_t i = 0; i < count; ++i) {
    lengths[i] = std::sqrt(Dot(vectors[i], vectors[i]));
  }
  double sum = 0;
  for (size_t i = 0; i < count; ++i) {
    for (size_t j = 0; j < i; ++j) {
      sum += 2 * Dot(vectors[i], vectors[j]) / (lengths[i] * lengths[j]);
    }
    // With itself 1, but for vectors that have no direction.
    sum += Dot(vectors[i], vectors[i]) / (lengths[i] * lengths[i]);
  }
  return sum / static_cast<double>(count * count);
}

OracleRows LastOf(OracleRows rows, int count) {
  const int others = std::max(rows.rows - count, 0);
  rows.first_row += others;
  rows.first_position += others;
  rows.rows -= others;
  return rows;
}

OracleRows RowsOf(const QueryTile& tile) {
  return {tile.slice, tile.first_row, tile.first_position, tile.rows};
}

int End(const OracleRows& rows) { return rows.first_position + rows.rows; }

int Group(const SelectArgs& args) { return args.heads / args.kv.kv_heads; }

// Over the first `blocks` of `means`, for the mean of each head's queries;
// added up.
Vector PooledWeights(const SelectArgs& args, const OracleRows& rows,
                     int kv_head, const Vectors& means, int blocks) {
  Vector weights(blocks);
  for (int h = 0; h < Group(args); ++h) {
    const Vector query = Mean(Queries(args, rows, kv_head * Group(args) + h));
    const Vector of_head = Softmax(Scores(args, query, means, blocks));
    for (size_t b = 0; b < weights.size(); ++b) weights[b] += of_head[b];
  }
  return weights;
}

Vector SumsOfBlocks(const Vector& values) {
  Vector sums(BlocksOf(static_cast<int>(values.size())));
  for (size_t i = 0; i < values.size(); ++i) sums[i / kBlock] += values[i];
  return sums;
}

int64_t Size(const std::vector<bool>& set) {
  return std::count(set.begin(), set.end(), true);
}

BoundedSet Ends(int blocks) {
  BoundedSet set;
  set.least.assign(blocks, false);
  set.least.front() = true;
  set.least.back() = true;
  set.most = set.least;
  return set;
}

// Where the last one taken and the first one left score nearly the same, both
// and all that score like them may be in or out.
BoundedSet Bounded(const std::vector<double>& scores,
                   const std::vector<bool>& taken,
                   const std::vector<bool>& forced) {
  double last = std::numeric_limits<double>::infinity();   // none was taken
  double next = -std::numeric_limits<double>::infinity();  // none is left
  for (size_t i = 0; i < scores.size(); ++i) {
    if (taken[i] && !forced[i]) last = std::min(last, scores[i]);
    if (!taken[i]) next = std::max(next, scores[i]);
  }
  BoundedSet set = {taken, taken};
  const double margin = kOracleMargin * std::abs(last);
  if (!std::isfinite(last) || last - next > margin) return set;
  for (size_t i = 0; i < scores.size(); ++i) {
    if (forced[i] || std::abs(scores[i] - last) > margin) continue;
    set.least[i] = false;
    set.most[i] = true;
  }
  return set;
}

// The best that is not taken, of equal ones the first; -1 if there is none.
int64_t Best(const std::vector<double>& scores,
             const std::vector<bool>& taken) {
  int64_t best = -1;
  for (size_t i = 0; i < scores.size(); ++i) {
    if (!taken[i] && (best < 0 || scores[i] > scores[best])) {
      best = static_cast<int64_t>(i);
    }
  }
  return best;
}

}  // namespace

BoundedSet OracleTop(const std::vector<double>& scores, int64_t count,
                     int64_t forced) {
  const int64_t size = static_cast<int64_t>(scores.size());
  count = std::min(count, size);
  std::vector<bool> first(size);
  for (int64_t i = 0; i < std::min(forced, count); ++i) first[i] = true;
  std::vector<bool> taken = first;
  while (Size(taken) < count) taken[Best(scores, taken)] = true;
  return Bounded(scores, taken, first);
}

BoundedSet OracleMass(const std::vector<double>& scores, double share,
                      const std::vector<bool>& forced) {
  double total = 0;
  double mass = 0;
  for (size_t i = 0; i < scores.size(); ++i) {
    total += scores[i];
    if (forced[i]) mass += scores[i];
  }
  std::vector<bool> taken = forced;
  while (mass < share * total &&
         Size(taken) < static_cast<int64_t>(scores.size())) {
    const int64_t best = Best(scores, taken);
    taken[best] = true;
    mass += scores[best];
  }
  return Bounded(scores, taken, forced);
}

OracleRows OracleSlice(const SelectArgs& args, size_t tile) {
  OracleRows rows;
  rows.slice = args.base->tiles[tile].slice;
  for (const QueryTile& other : args.base->tiles) {
    if (other.slice != rows.slice) continue;
    if (rows.rows == 0) {
      rows.first_row = other.first_row;
      rows.first_position = other.first_position;
    }
    rows.rows += other.rows;
  }
  return rows;
}

OracleSums OracleAttentionSums(const SelectArgs& args, const OracleRows& rows,
                               int kv_head) {
  const int end = End(rows);
  const Vectors keys = Keys(args, rows.slice, kv_head, end);
  OracleSums sums = {Vector(end), Vector(end)};
  for (int h = 0; h < Group(args); ++h) {
    const Vectors queries = Queries(args, rows, kv_head * Group(args) + h);
    for (int r = 0; r < rows.rows; ++r) {
      const int i = rows.first_position + r;
      const Vector weights = Softmax(Scores(args, queries[r], keys, i + 1));
      for (int j = 0; j <= i; ++j) {
        sums.by_key[j] += weights[j];
        sums.by_distance[i - j] += weights[j];
      }
    }
  }
  return sums;
}

double OracleDivergence(const SelectArgs& args, const OracleRows& slice,
                        int kv_head) {
  const OracleRows last = LastOf(slice, kBlock);
  const Vector truth =
      SumsOfBlocks(OracleAttentionSums(args, last, kv_head).by_key);
  const Vector estimate = PooledWeights(
      args, last, kv_head, Means(Keys(args, slice.slice, kv_head, End(slice))),
      BlocksOf(End(slice)));
  const double rows = static_cast<double>(last.rows) * Group(args);
  double divergence = 0;
  for (size_t b = 0; b < truth.size(); ++b) {
    const double p = truth[b] / rows;
    const double q = estimate[b] / Group(args);
    const double m = (p + q) / 2;
    divergence += p * std::log(p / m) / 2 + q * std::log(q / m) / 2;
  }
  return std::sqrt(divergence);
}

const OracleSums& OracleBatch::Sums(const OracleRows& rows, int kv_head) {
  const auto [at, is_new] =
      sums_.try_emplace({rows.first_row, rows.rows, kv_head});
  if (is_new) at->second = OracleAttentionSums(args_, rows, kv_head);
  return at->second;
}

double OracleBatch::Divergence(const OracleRows& slice, int kv_head) {
  const auto [at, is_new] =
      divergences_.try_emplace({slice.first_row, slice.rows, kv_head});
  if (is_new) at->second = OracleDivergence(args_, slice, kv_head);
  return at->second;
}

const std::vector<double>& OracleBatch::Map(const OracleRows& slice,
                                            int kv_head) {
  const auto [at, is_new] =
      maps_.try_emplace({slice.first_row, slice.rows, kv_head});
  if (!is_new) return at->second;
  const Vectors means = Means(Keys(args_, slice.slice, kv_head, End(slice)));
  for (const QueryTile& tile : args_.base->tiles) {
    if (tile.slice != slice.slice) continue;
    const OracleRows rows = RowsOf(tile);
    const Vector row =
        PooledWeights(args_, rows, kv_head, means, BlocksOf(End(rows)));
    at->second.insert(at->second.end(), row.begin(), row.end());
  }
  return at->second;
}

BoundedSet OracleBlocks(OracleBatch& batch, size_t tile, int kv_head,
                        const VerticalSlashRule& rule) {
  const SelectArgs& args = batch.args();
  const OracleSums& sums =
      batch.Sums(LastOf(OracleSlice(args, tile), rule.rows), kv_head);
  const BoundedSet keys = OracleTop(sums.by_key, rule.columns, 30);
  const BoundedSet distances = OracleTop(sums.by_distance, rule.diagonals, 100);
  const OracleRows rows = RowsOf(args.base->tiles[tile]);
  BoundedSet blocks = Ends(BlocksOf(End(rows)));
  for (int i = rows.first_position; i < End(rows); ++i) {
    for (int j = 0; j <= i; ++j) {
      if (keys.least[j] || distances.least[i - j]) {
        blocks.least[j / kBlock] = true;
      }
      if (keys.most[j] || distances.most[i - j]) blocks.most[j / kBlock] = true;
    }
  }
  return blocks;
}

BoundedSet OracleBlocks(OracleBatch& batch, size_t tile, int kv_head,
                        const FlexPrefillRule& rule) {
  const SelectArgs& args = batch.args();
  const OracleRows slice = OracleSlice(args, tile);
  const OracleRows rows = RowsOf(args.base->tiles[tile]);
  const int own = BlocksOf(End(rows)) - 1;
  BoundedSet blocks = Ends(own + 1);
  const OracleSums& sums = batch.Sums(LastOf(slice, kBlock), kv_head);
  const bool takes_map = batch.Divergence(slice, kv_head) < rule.divergence;
  const auto best_blocks = [&](const Vector& values) {
    int64_t count = rule.least_blocks;
    if (!takes_map) {
      const int64_t tokens = Size(
          OracleMass(values, rule.mass, std::vector<bool>(values.size())).most);
      count = std::max(count, tokens / kBlock + 1);
    }
    return OracleTop(SumsOfBlocks(values), count, 1);
  };
  const BoundedSet keys = best_blocks(sums.by_key);
  const BoundedSet distances = best_blocks(sums.by_distance);
  for (int b = 0; b <= own; ++b) {
    if (keys.least[b] || distances.least[own - b]) blocks.least[b] = true;
    if (keys.most[b] || distances.most[own - b]) blocks.most[b] = true;
  }
  if (!takes_map) return blocks;
  const Vector& map = batch.Map(slice, kv_head);
  size_t row_of_tile = 0;
  for (size_t t = 0; t < tile; ++t) {
    const QueryTile& before = args.base->tiles[t];
    if (before.slice == slice.slice) {
      row_of_tile += BlocksOf(End(RowsOf(before)));
    }
  }
  const BoundedSet chosen =
      OracleMass(map, rule.mass, std::vector<bool>(map.size()));
  for (int b = 0; b <= own; ++b) {
    if (chosen.least[row_of_tile + b]) blocks.least[b] = true;
    if (chosen.most[row_of_tile + b]) blocks.most[b] = true;
  }
  return blocks;
}

BoundedSet OracleBlocks(OracleBatch& batch, size_t tile, int kv_head,
                        const SimilarityRule& rule) {
  const SelectArgs& args = batch.args();
  const OracleRows rows = RowsOf(args.base->tiles[tile]);
  const int count = BlocksOf(End(rows));
  const Vectors keys = Keys(args, rows.slice, kv_head, End(rows));
  const BoundedSet every = {std::vector<bool>(count, true),
                            std::vector<bool>(count, true)};
  for (int h = 0; h < Group(args); ++h) {
    if (MeanCosine(Queries(args, rows, kv_head * Group(args) + h)) <
        rule.similarity) {
      return every;
    }
  }
  std::vector<bool> kept = Ends(count).least;
  Vectors means;
  std::vector<int> scored;
  for (int b = 0; b < count; ++b) {
    const auto begin = keys.begin() + b * kBlock;
    const Vectors block(begin, std::min(begin + kBlock, keys.end()));
    if (MeanCosine(block) < rule.similarity) {
      kept[b] = true;
    } else {
      scored.push_back(b);
      means.push_back(Mean(block));
    }
  }
  Vector scores(count);
  if (!scored.empty()) {
    const Vector weights = PooledWeights(args, rows, kv_head, means,
                                         static_cast<int>(means.size()));
    for (size_t i = 0; i < scored.size(); ++i) scores[scored[i]] = weights[i];
  }
  return OracleMass(scores, rule.mass, kept);
}

BoundedSet OracleBlocks(OracleBatch& batch, size_t tile, int kv_head,
                        const PeakWeightRule& rule) {
  const SelectArgs& args = batch.args();
  const OracleRows rows = RowsOf(args.base->tiles[tile]);
  const int count = BlocksOf(End(rows));
  const Vectors keys = Keys(args, rows.slice, kv_head, End(rows));
  Vector peaks(count);
  // `width` keys have one weight together.
  const auto raise = [&](const Vector& scores, int width) {
    const Vector weights = Softmax(scores);
    Vector of_blocks(count);
    for (size_t u = 0; u < weights.size(); ++u) {
      of_blocks[u * width / kBlock] += weights[u];
    }
    for (int b = 0; b < count; ++b) peaks[b] = std::max(peaks[b], of_blocks[b]);
  };
  const int sample = std::min(rule.rows, rows.rows);
  for (int h = 0; h < Group(args); ++h) {
    const Vectors queries = Queries(args, rows, kv_head * Group(args) + h);
    for (int i = 1; i <= sample; ++i) {
      const int row = i * rows.rows / sample - 1;
      raise(Scores(args, queries[row], keys, rows.first_position + row + 1), 1);
    }
    const int stride = rule.stride;
    for (int t = rows.first_position / stride; t * stride < End(rows); ++t) {
      Vector scores(t + 1);
      for (int u = 0; u <= t; ++u) {
        double product = 0;
        for (int s = 0; s < stride; ++s) {
          const int i = t * stride + stride - 1 - s;
          const int j = u * stride + s;
          if (i < rows.first_position || i >= End(rows) || j >= End(rows)) {
            continue;
          }
          product += Dot(queries[i - rows.first_position], keys[j]);
        }
        scores[u] = ScoreOfProduct(args, product / stride);
      }
      raise(scores, stride);
    }
  }
  BoundedSet blocks = Ends(count);
  for (int b = 0; b < count; ++b) {
    const double margin = kOracleMargin * rule.least_weight;
    if (peaks[b] >= rule.least_weight + margin) blocks.least[b] = true;
    if (peaks[b] >= rule.least_weight - margin) blocks.most[b] = true;
  }
  return blocks;
}

BoundedSet OracleBlocks(OracleBatch& batch, size_t tile, int kv_head,
                        const PageBoundRule& rule) {
  const SelectArgs& args = batch.args();
  const OracleRows rows = RowsOf(args.base->tiles[tile]);
  const int count = BlocksOf(End(rows));
  const Vectors keys = Keys(args, rows.slice, kv_head, (count - 1) * kBlock);
  std::vector<bool> kept = Ends(count).least;
  for (int b = 0; b < count; ++b) {
    if (b < rule.first_blocks || b >= count - rule.last_blocks) kept[b] = true;
  }
  Vector scores(count);  // 0 for its own, which is kept
  for (int h = 0; h < Group(args); ++h) {
    for (const Vector& query : Queries(args, rows, kv_head * Group(args) + h)) {
      for (int b = 0; b + 1 < count; ++b) {
        Vector greatest(query.size(), -std::numeric_limits<double>::infinity());
        for (int j = b * kBlock; j < (b + 1) * kBlock; ++j) {
          const Vector& key = keys[j];
          for (size_t i = 0; i < query.size(); ++i) {
            greatest[i] = std::max(greatest[i], query[i] * key[i]);
          }
        }
        for (const double product : greatest) scores[b] += product;
      }
    }
  }
  std::vector<bool> taken = kept;
  while (Size(taken) < std::min(count, rule.blocks)) {
    taken[Best(scores, taken)] = true;
  }
  return Bounded(scores, taken, kept);
}

BoundedSet OracleBlocks(OracleBatch& batch, size_t tile, int kv_head,
                        const CandidateMassRule& rule) {
  const SelectArgs& args = batch.args();
  const OracleRows rows = RowsOf(args.base->tiles[tile]);
  const BoundedSet candidates =
      OracleBlocks(batch, tile, kv_head, rule.candidates);
  if (rule.mass >= 1) return candidates;
  const int count = BlocksOf(End(rows));
  const Vectors keys = Keys(args, rows.slice, kv_head, End(rows));
  Vector scores(count);
  for (int h = 0; h < Group(args); ++h) {
    const Vectors queries = Queries(args, rows, kv_head * Group(args) + h);
    for (int r = 0; r < rows.rows; ++r) {
      Vector of_row(rows.first_position + r + 1,
                    -std::numeric_limits<double>::infinity());
      for (size_t j = 0; j < of_row.size(); ++j) {
        if (candidates.least[j / kBlock]) {
          of_row[j] = Score(args, queries[r], keys[j]);
        }
      }
      const Vector weights = Softmax(of_row);
      for (size_t j = 0; j < weights.size(); ++j) {
        scores[j / kBlock] += weights[j];
      }
    }
  }
  std::vector<bool> kept = Ends(count).least;
  for (int b = 0; b < count; ++b) {
    if (b < rule.candidates.first_blocks ||
        b >= count - rule.candidates.last_blocks) {
      kept[b] = true;
    }
  }
  return OracleMass(scores, rule.mass, kept);
}

BoundedSet OracleBlocks(OracleBatch& batch, size_t tile, int kv_head,
                        const MeanKeyRule& rule) {
  const SelectArgs& args = batch.args();
  const OracleRows rows = RowsOf(args.base->tiles[tile]);
  const int count = BlocksOf(End(rows));
  const int tokens = rule.block_pages * kBlock;
  const int own = rows.first_position / tokens;
  const Vectors keys = Keys(args, rows.slice, kv_head, own * tokens);
  Vectors means;
  for (int b = 0; b < own; ++b) {
    means.push_back(
        Mean({keys.begin() + b * tokens, keys.begin() + (b + 1) * tokens}));
  }
  BoundedSet blocks = Ends(count);
  for (int b = own * rule.block_pages; b < count; ++b) {
    blocks.least[b] = blocks.most[b] = true;
  }
  for (int h = 0; h < Group(args); ++h) {
    for (const Vector& query : Queries(args, rows, kv_head * Group(args) + h)) {
      Vector scores;
      for (const Vector& mean : means) scores.push_back(Dot(query, mean));
      const BoundedSet chosen = OracleTop(scores, rule.blocks - 1, 0);
      for (int b = 0; b < own * rule.block_pages; ++b) {
        if (chosen.least[b / rule.block_pages]) blocks.least[b] = true;
        if (chosen.most[b / rule.block_pages]) blocks.most[b] = true;
      }
    }
  }
  return blocks;
}

}  // namespace sparseserve::testing
