#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <vector>

#include "engine/backend/backend.h"

namespace sparseserve::testing {

// What the rules of layout/selection_rule.h choose, one (query, key) pair at a
// time in double precision, written from the rules and sharing nothing with the
// engine.

// A set that scores decide up to rounding: elements of `least` must be in it,
// others than those of `most` must not. The two differ where a score is nearer,
// as share of it, than kOracleMargin to that of the last element taken.
struct BoundedSet {
  std::vector<bool> least;
  std::vector<bool> most;
};
inline constexpr double kOracleMargin = 1e-5;

// The `count` largest of `scores`, of equal ones the first; of them the first
// `forced` elements come before others.
BoundedSet OracleTop(const std::vector<double>& scores, int64_t count,
                     int64_t forced);
// The least set of the largest, elements that are `forced` first, that has
// `share` of the sum.
BoundedSet OracleMass(const std::vector<double>& scores, double share,
                      const std::vector<bool>& forced);

// Rows of one slice that follow each other.
struct OracleRows {
  int32_t slice = 0;
  int first_row = 0;
  int first_position = 0;
  int rows = 0;
};
// All that the base layout's tiles have of the slice of one of them.
OracleRows OracleSlice(const SelectArgs& args, size_t tile);

struct OracleSums {
  std::vector<double> by_key;       // [keys]
  std::vector<double> by_distance;  // [keys]
};
// Sums of softmax weights over the rows and the KV head's query heads.
OracleSums OracleAttentionSums(const SelectArgs& args, const OracleRows& rows,
                               int kv_head);

// Root of the Jensen-Shannon divergence between a FlexPrefillRule's two ways.
double OracleDivergence(const SelectArgs& args, const OracleRows& slice,
                        int kv_head);

// A batch and what many of its tiles ask for alike, worked out once.
class OracleBatch {
 public:
  // `args` must outlive it, and what they point to must stay as it is.
  explicit OracleBatch(const SelectArgs& args) : args_(args) {}

  const SelectArgs& args() const { return args_; }
  // OracleAttentionSums() and OracleDivergence().
  const OracleSums& Sums(const OracleRows& rows, int kv_head);
  double Divergence(const OracleRows& slice, int kv_head);
  // For each tile of the slice its weights of the blocks that it sees, by means
  // of queries and keys, one tile behind the other.
  const std::vector<double>& Map(const OracleRows& slice, int kv_head);

 private:
  using Key = std::array<int, 3>;  // first row, rows, KV head

  const SelectArgs& args_;
  std::map<Key, OracleSums> sums_;
  std::map<Key, double> divergences_;
  std::map<Key, std::vector<double>> maps_;
};

// The blocks that a tile's KV head visits.
BoundedSet OracleBlocks(OracleBatch& batch, size_t tile, int kv_head,
                        const VerticalSlashRule& rule);
BoundedSet OracleBlocks(OracleBatch& batch, size_t tile, int kv_head,
                        const FlexPrefillRule& rule);
BoundedSet OracleBlocks(OracleBatch& batch, size_t tile, int kv_head,
                        const SimilarityRule& rule);
BoundedSet OracleBlocks(OracleBatch& batch, size_t tile, int kv_head,
                        const PeakWeightRule& rule);
// Looks at keys, not at stored bounds of them.
BoundedSet OracleBlocks(OracleBatch& batch, size_t tile, int kv_head,
                        const PageBoundRule& rule);
// REQUIRES: the rule's candidates are no matter of rounding.
BoundedSet OracleBlocks(OracleBatch& batch, size_t tile, int kv_head,
                        const CandidateMassRule& rule);
BoundedSet OracleBlocks(OracleBatch& batch, size_t tile, int kv_head,
                        const MeanKeyRule& rule);

}  // namespace sparseserve::testing
