#include "engine/backend/cpu/slice_head.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <variant>

namespace sparseserve::cpu {
namespace {

// No similarity is less.
constexpr float kNoGate = -std::numeric_limits<float>::infinity();

SliceRows AllRows(absl::Span<const QueryTile> tiles) {
  SliceRows rows = RowsOf(tiles.front());
  for (const QueryTile& tile : tiles.subspan(1)) rows.rows += tile.rows;
  return rows;
}

}  // namespace

// Visits the rule.
struct SliceHead::Preparing {
  SliceHead& head;
  const SelectionKernels& kernels;
  const SelectArgs& args;
  absl::Span<const QueryTile> tiles;
  int32_t kv_head;
  SelectionScratch& scratch;

  // Every tile is on its own.
  void operator()(const AntidiagonalRule&) const {}
  void operator()(const PeakWeightRule&) const {}

  void operator()(const VerticalSlashRule& rule) const {
    LastRowSums(kernels, args, AllRows(tiles).Last(rule.rows), kv_head,
                scratch.last_rows, scratch.sums);
    head.vertical_slash_.Choose(rule, scratch.sums);
  }

  void operator()(const FlexPrefillRule& rule) const {
    const SliceRows rows = AllRows(tiles);
    const SliceRows last = rows.Last(kPageTokens);
    LastRowSums(kernels, args, last, kv_head, scratch.last_rows, scratch.sums);
    PoolKeys(kernels, args, rows, kv_head, scratch.pooling, head.keys_);
    Score(last, rows.blocks());
    if (!head.flex_prefill_.Choose(rule, scratch.sums, scratch.scores)) return;
    for (const QueryTile& tile : tiles) {
      Score(RowsOf(tile), QueryBlock(tile, kPageTokens) + 1);
      head.flex_prefill_.AddMapRow(scratch.scores);
    }
    head.flex_prefill_.ChooseFromMap(rule);
  }

  void operator()(const SimilarityRule&) const {
    PoolKeys(kernels, args, AllRows(tiles), kv_head, scratch.pooling,
             head.keys_);
  }

  // The bounds were taken when the keys were stored.
  void operator()(const PageBoundRule&) const {}
  void operator()(const CandidateMassRule&) const {}

  void operator()(const MeanKeyRule& rule) const {
    PoolMeanKeys(kernels, args, AllRows(tiles), kv_head, rule, scratch.pooling,
                 head.keys_);
  }

  void Score(const SliceRows& rows, int32_t blocks) const {
    PoolQueries(kernels, args, rows, kv_head, scratch.pooling);
    PooledScores(kernels, args, head.keys_, blocks, kNoGate, scratch.pooling,
                 scratch.scores);
  }
};

// Likewise, once the choice has block 0 and the tile's own.
struct SliceHead::Choosing {
  const SliceHead& head;
  const SelectionKernels& kernels;
  const SelectArgs& args;
  const QueryTile& tile;
  int32_t index;
  int32_t kv_head;
  SelectionScratch& scratch;

  void operator()(const AntidiagonalRule& rule) const {
    AntidiagonalScores(kernels, args, tile, kv_head, rule.stride,
                       scratch.antidiagonal, scratch.scores);
    scratch.choice.TakeMass(scratch.scores, rule.mass, Crossing::kIncluded);
  }

  void operator()(const VerticalSlashRule&) const {
    head.vertical_slash_.ForceBlocks(tile, scratch.choice);
  }

  void operator()(const FlexPrefillRule&) const {
    head.flex_prefill_.ForceBlocks(tile, index, scratch.choice);
  }

  void operator()(const SimilarityRule& rule) const {
    const int32_t blocks = QueryBlock(tile, kPageTokens) + 1;
    PoolQueries(kernels, args, RowsOf(tile), kv_head, scratch.pooling);
    const std::vector<float>& alike = scratch.pooling.queries.similarities;
    if (std::any_of(alike.begin(), alike.end(), [&](float similarity) {
          return similarity < rule.similarity;
        })) {
      ForceRange(0, blocks);
      return;
    }
    for (int32_t b = 0; b < blocks; ++b) {
      if (head.keys_.similarities[b] < rule.similarity) scratch.choice.Force(b);
    }
    PooledScores(kernels, args, head.keys_, blocks, rule.similarity,
                 scratch.pooling, scratch.scores);
    scratch.choice.TakeMass(scratch.scores, rule.mass, Crossing::kIncluded);
  }

  void operator()(const PeakWeightRule& rule) const {
    const int32_t blocks = QueryBlock(tile, kPageTokens) + 1;
    scratch.scores.assign(blocks, 0.0f);
    RaiseToAntidiagonalWeights(kernels, args, tile, kv_head, rule.stride,
                               scratch.antidiagonal, scratch.scores);
    if (rule.rows > 0) {
      RaiseToRowWeights(kernels, args, tile, kv_head, rule.rows,
                        scratch.row_peaks, scratch.scores);
    }
    for (int32_t b = 0; b < blocks; ++b) {
      const float peak = scratch.scores[b];
      if (peak >= rule.least_weight || std::isnan(peak)) {
        scratch.choice.Force(b);
      }
    }
  }

  void operator()(const PageBoundRule& rule) const {
    const int32_t blocks = QueryBlock(tile, kPageTokens) + 1;
    if (blocks <= rule.blocks) {
      ForceRange(0, blocks);
      return;
    }
    ForceEnds(rule);
    PageBoundScores(kernels, args, RowsOf(tile), kv_head, blocks - 1,
                    scratch.page_bounds, scratch.scores);
    scratch.scores.push_back(0.0f);  // its own, which is chosen
    if (std::all_of(scratch.scores.begin(), scratch.scores.end(),
                    [](float score) { return std::isfinite(score); })) {
      scratch.choice.TakeBest(scratch.scores, rule.blocks);
    } else {
      ForceRange(0, blocks);
    }
  }

  void operator()(const CandidateMassRule& rule) const {
    const int32_t blocks = QueryBlock(tile, kPageTokens) + 1;
    (*this)(rule.candidates);
    if (rule.mass >= 1.0f) return;
    std::vector<int32_t>& candidates = scratch.candidates.blocks;
    candidates.clear();
    for (int32_t b = 0; b < blocks; ++b) {
      if (scratch.choice.chosen()[b] != 0) candidates.push_back(b);
    }
    CandidateWeights(kernels, args, RowsOf(tile), kv_head, blocks,
                     scratch.candidates, scratch.scores);
    scratch.choice.Begin(blocks);
    ForceEnds(rule.candidates);
    scratch.choice.TakeMass(scratch.scores, rule.mass, Crossing::kIncluded);
  }

  void operator()(const MeanKeyRule& rule) const {
    ForceMeanKeyBlocks(kernels, args, RowsOf(tile), kv_head, rule, head.keys_,
                       scratch.mean_keys, scratch.choice);
  }

  // Block 0 and the tile's own among them.
  void ForceEnds(const PageBoundRule& rule) const {
    const int32_t blocks = QueryBlock(tile, kPageTokens) + 1;
    ForceRange(0, std::clamp(rule.first_blocks, 1, blocks));
    ForceRange(blocks - std::clamp(rule.last_blocks, 1, blocks), blocks);
  }

  void ForceRange(int32_t begin, int32_t end) const {
    for (int32_t b = begin; b < end; ++b) scratch.choice.Force(b);
  }
};

bool SliceHead::Prepares(const SelectionRule& rule) {
  return !std::holds_alternative<AntidiagonalRule>(rule) &&
         !std::holds_alternative<PeakWeightRule>(rule) &&
         !std::holds_alternative<PageBoundRule>(rule) &&
         !std::holds_alternative<CandidateMassRule>(rule);
}

void SliceHead::Prepare(const SelectionKernels& kernels, const SelectArgs& args,
                        absl::Span<const QueryTile> tiles, int32_t kv_head,
                        const SelectionRule& rule, SelectionScratch& scratch) {
  std::visit(Preparing{*this, kernels, args, tiles, kv_head, scratch}, rule);
}

void SliceHead::Choose(const SelectionKernels& kernels, const SelectArgs& args,
                       const QueryTile& tile, int32_t index, int32_t kv_head,
                       const SelectionRule& rule,
                       SelectionScratch& scratch) const {
  const int32_t blocks = QueryBlock(tile, kPageTokens) + 1;
  scratch.choice.Begin(blocks);
  scratch.choice.Force(0);
  scratch.choice.Force(blocks - 1);
  std::visit(Choosing{*this, kernels, args, tile, index, kv_head, scratch},
             rule);
}

}  // namespace sparseserve::cpu
