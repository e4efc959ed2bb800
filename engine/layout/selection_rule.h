#pragma once

// Rules that choose KV blocks by scores of a step's queries and keys. A rule
// runs in every layer, so it is data that a backend understands, as a
// BlockLayout is; where it comes from is the pattern's business.

#include <cstdint>
#include <variant>

namespace sparseserve {

// Antidiagonal scores (XAttention, Xu et al., arXiv 2503.16428). Positions are
// cut into groups of `stride`; groups t of queries and u <= t of keys score the
// mean of q(t stride + stride - 1 - s) . k(u stride + s) over s, scaled as
// attention scales. A softmax over u gives every query group's weights; a block
// scores the sum of them over its key groups, the tile's query groups and the
// query heads of a KV head. Queries and keys that the tile's last position
// leaves out count as 0.
//
// The tile then visits block 0, its own block, and the best others until they
// have `mass` of the sum of scores, the crossing one included.
struct AntidiagonalRule {
  int32_t stride = 8;  // a power of two, 2 ... 64
  float mass = 0.9f;   // above 0; 1 keeps every block
  friend bool operator==(const AntidiagonalRule&,
                         const AntidiagonalRule&) = default;
};

// Columns and diagonals of the last rows (vertical-slash of MInference, Jiang
// et al., arXiv 2407.02490). Of a slice's last `rows` queries, or all if it has
// fewer, the softmax over all keys is summed for every key and for every
// distance of query and key, over the query heads of a KV head. Chosen are the
// `columns` keys and the `diagonals` distances with the largest sums, ties to
// the lower key and the shorter distance; the first 30 keys and the distances
// below 100 are the first to be taken.
//
// A tile then visits block 0, its own block and the blocks that hold a chosen
// key or a key at a chosen distance from one of its queries: whole blocks, more
// keys than were chosen.
struct VerticalSlashRule {
  int32_t rows = 64;  // 1 ... kPageTokens
  int32_t columns = 0;
  int32_t diagonals = 0;
  friend bool operator==(const VerticalSlashRule&,
                         const VerticalSlashRule&) = default;
};

// Query-aware or vertical and slash (FlexPrefill, Lai et al., arXiv
// 2502.20766). Of a slice's last kPageTokens queries, the softmax over all keys
// is summed by key and by distance as above, and by block of 64 of either. The
// distance sqrt(JSD), in nats, of the sums by key block from the softmax of
// mean query . mean key of each block tells which of two ways the head goes.
//
// Below `divergence`: for every tile of the slice, the softmax over the blocks
// up to its own of mean query . mean key, summed over the query heads. Chosen
// are the largest values of all tiles together until they have `mass` of the
// sum, ties to the earlier tile and block.
// Otherwise: the key blocks and distance blocks with the largest sums, c / 64 +
// 1 of them, where c is the least number of keys or distances that have `mass`
// of their sum.
// Either way the `least_blocks` best key blocks and distance blocks too, key
// block 0 and distance block 0 the first of them. A tile in query block I meets
// distance block D in block I - D. It visits block 0 and its own whatever
// happens.
struct FlexPrefillRule {
  float mass = 0.95f;       // above 0; 1 keeps every block
  float divergence = 0.1f;  // 0 or more; 0 never takes the first way
  int32_t least_blocks = 0;
  friend bool operator==(const FlexPrefillRule&,
                         const FlexPrefillRule&) = default;
};

// Mean queries and keys of blocks that are alike in themselves (Zhang et al.,
// SpargeAttn, arXiv 2502.18137, without its skips within a kernel). The
// similarity of a block's vectors is the mean cosine of all pairs, each with
// itself among them: the squared length of the mean of what normalising them
// gives. A tile one of whose query heads has less than `similarity` visits
// every block. Of another's, key blocks with less are kept; the rest are scored
// by the softmax over them of mean query . mean key, summed over the query
// heads of a KV head. Keys that the tile's last position leaves out are in no
// mean.
//
// The tile then visits block 0, its own block, those that are kept, and the
// best others until they have `mass` of the sum of scores, the crossing one
// included.
struct SimilarityRule {
  float similarity = 0.0f;  // -1 or less gates nothing
  float mass = 0.95f;       // above 0; 1 keeps every block
  friend bool operator==(const SimilarityRule&,
                         const SimilarityRule&) = default;
};

// The largest weight that some row gives a block. Rows are the query groups of
// an AntidiagonalRule with that stride, each with its softmax over key groups,
// and `rows` of the tile's queries, evenly spaced up to the last, each with its
// softmax over the keys that it sees, scaled and capped as attention's scores
// are; of every query head of a KV head. The first see every query and key, but
// blur them; the others are exact, but of some queries.
//
// The tile then visits block 0, its own block, and those to which one of these
// rows gives `least_weight` or more. A sum over rows, which a share of the mass
// is taken of, hides the block that a single row wants, and spends on many that
// all rows want a little.
struct PeakWeightRule {
  int32_t stride = 8;  // as in AntidiagonalRule
  int32_t rows = 4;    // 0 ... kPageTokens; all of the tile if it has fewer
  float least_weight = 0.035f;  // above 0, up to 1
  friend bool operator==(const PeakWeightRule&,
                         const PeakWeightRule&) = default;
};

// Bounds of a block's keys (Quest, Tang et al., arXiv 2406.10774). With the
// greatest M_d and the least m_d of each element of them, no key has a larger
// product with a query q than the sum of max(q_d M_d, q_d m_d) over d. A block
// scores the sum of these over the tile's rows and the query heads of a KV
// head, neither scaled nor capped. Blocks before the tile's own are full; it
// alone has no bounds.
//
// The tile then visits block 0, its own block, the first `first_blocks`, the
// last `last_blocks` up to its own, and those with the largest scores, ties to
// the lower block, until it visits `blocks`.
struct PageBoundRule {
  int32_t blocks = 0;
  int32_t first_blocks = 0;
  int32_t last_blocks = 0;
  friend bool operator==(const PageBoundRule&, const PageBoundRule&) = default;
};

// The weight of candidates (Twilight, Lin et al., arXiv 2502.02770, by blocks,
// not tokens, and with the stored keys for its 4-bit ones). Candidates are the
// blocks that a PageBoundRule visits. A row's softmax over their keys that it
// sees, scaled and capped as attention's scores are, gives every block the sum
// of its keys' weights; it scores what these are over the tile's rows and the
// query heads of a KV head.
//
// The tile then visits block 0, its own block, the first and the last blocks of
// the PageBoundRule, and the best others until they have `mass` of the sum of
// scores, the crossing one included. So of what the candidates would keep, rows
// and heads keep that share on average.
struct CandidateMassRule {
  PageBoundRule candidates;
  float mass = 0.95f;  // above 0; 1 keeps every candidate
  friend bool operator==(const CandidateMassRule&,
                         const CandidateMassRule&) = default;
};

// Mean keys of larger blocks (MoBA, Lu et al., arXiv 2502.13189). Positions are
// cut into blocks of `block_pages` KV blocks. Every row and query head chooses
// its own and of those before it the `blocks` - 1 whose mean key has the
// largest product with its query, ties to the earlier; neither scale nor cap
// changes which these are.
//
// A tile then visits block 0 and all that one of its rows and query heads of
// the KV head chose: what the rule names for a row, and what it names for the
// others.
struct MeanKeyRule {
  int32_t block_pages = 8;  // 1 or more
  int32_t blocks = 3;       // a row's own among them; 1 or more
  friend bool operator==(const MeanKeyRule&, const MeanKeyRule&) = default;
};

using SelectionRule =
    std::variant<AntidiagonalRule, VerticalSlashRule, FlexPrefillRule,
                 SimilarityRule, PeakWeightRule, PageBoundRule,
                 CandidateMassRule, MeanKeyRule>;

// Some kinds of rules: those that a device runs.
class SelectionRuleKinds {
 public:
  constexpr SelectionRuleKinds() = default;  // none
  static constexpr SelectionRuleKinds All() {
    SelectionRuleKinds all;
    all.bits_ = (1u << std::variant_size_v<SelectionRule>)-1;
    return all;
  }
  template <typename... Rules>
  static constexpr SelectionRuleKinds Of() {
    SelectionRuleKinds kinds;
    kinds.bits_ = ((1u << SelectionRule(Rules{}).index()) | ...);
    return kinds;
  }

  constexpr bool Has(const SelectionRule& rule) const {
    return (bits_ >> rule.index() & 1) != 0;
  }

 private:
  uint32_t bits_ = 0;  // bit i: the variant's alternative i
};

// How one KV head of a tile gets its list.
struct HeadSelection {
  int32_t rule = -1;        // index among the step's rules; -1: no scores
  int32_t first_layer = 0;  // layers before it do without
  // A choice stands for a period of so many positions (KeptBlocks).
  int32_t reuse_steps = 1;

  bool IsUsedIn(int32_t layer) const {
    return rule >= 0 && layer >= first_layer;
  }
};

}  // namespace sparseserve
