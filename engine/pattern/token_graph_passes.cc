#include "engine/pattern/token_graph_passes.h"

#include <algorithm>
#include <map>
#include <numeric>
#include <tuple>
#include <utility>

#include "engine/base/check.h"
#include "engine/base/status_macros.h"
#include "engine/base/str_cat.h"
#include "engine/layout/masked_layout_builder.h"
#include "engine/pattern/passes_size.h"
#include "engine/step.h"

namespace sparseserve {
namespace {

// Over all sets: 128 MB of them, and twice that while lists are built, however
// many heads share a set.
constexpr int64_t kMaxArcs = int64_t{1} << 24;

absl::Status CheckArcs(const TokenGraph& graph) {
  const auto count = static_cast<int64_t>(graph.is_real.size());
  int64_t all = 0;
  for (const std::vector<TokenArc>& arcs : graph.arcs) {
    all += static_cast<int64_t>(arcs.size());
  }
  if (all > kMaxArcs) {
    return absl::InvalidArgumentError(
        StrCat("token_graph: ", all, " arcs; allowed: ", kMaxArcs));
  }
  for (const std::vector<TokenArc>& arcs : graph.arcs) {
    for (const TokenArc& arc : arcs) {
      if (std::min(arc.from, arc.to) >= 0 &&
          std::max(arc.from, arc.to) < count) {
        continue;
      }
      return absl::InvalidArgumentError(StrCat("token_graph: an arc from ",
                                               arc.from, " to ", arc.to,
                                               "; allowed: 0 to ", count - 1));
    }
  }
  return absl::OkStatus();
}

absl::Status CheckGraph(const TokenGraphPattern& pattern,
                        const TokenGraph& graph) {
  RETURN_IF_ERROR(CheckSequence(
      pattern, static_cast<int64_t>(graph.is_real.size()), graph.heads));
  if (!pattern.degrees.empty() &&
      static_cast<int32_t>(pattern.degrees.size()) != graph.heads) {
    return absl::InvalidArgumentError(
        StrCat("token_graph: ", pattern.degrees.size(), " degrees for ",
               graph.heads, " heads"));
  }
  if (graph.arcs.size() > 1 &&
      static_cast<int32_t>(graph.arcs.size()) != graph.heads) {
    return absl::InvalidArgumentError(
        StrCat("token_graph: ", graph.arcs.size(), " sets of arcs for ",
               graph.heads, " heads; allowed: 0, 1 or ", graph.heads));
  }
  return CheckArcs(graph);
}

// What a head sees, as far as heads differ.
struct Sight {
  int32_t arcs = -1;  // which set; -1: none
  int32_t degree = 0;
  friend bool operator<(const Sight& a, const Sight& b) {
    return std::tie(a.arcs, a.degree) < std::tie(b.arcs, b.degree);
  }
};

Sight SightOf(const TokenGraphPattern& pattern, const TokenGraph& graph,
              int32_t head) {
  Sight sight;
  if (!graph.arcs.empty()) sight.arcs = graph.arcs.size() == 1 ? 0 : head;
  if (!pattern.degrees.empty()) sight.degree = pattern.degrees[head];
  return sight;
}

// By tiles, and then what each of the sights sees.
class SightLists {
 public:
  SightLists(const TokenGraph& graph, const std::vector<Sight>& sights)
      : count_(static_cast<int64_t>(graph.is_real.size())), sights_(sights) {
    for (const std::vector<TokenArc>& set : graph.arcs) {
      std::vector<TokenArc>& arcs = arcs_.emplace_back();
      arcs.reserve(2 * set.size());
      for (const TokenArc& arc : set) {
        if (!graph.is_real[arc.from] || !graph.is_real[arc.to]) continue;
        arcs.push_back(arc);
        arcs.push_back({arc.to, arc.from});
      }
      std::sort(arcs.begin(), arcs.end());
      // Each is gone through once for every sight.
      arcs.erase(std::unique(arcs.begin(), arcs.end()), arcs.end());
    }
  }

  // [sights]
  std::vector<int32_t> Add(const QueryTile& tile,
                           MaskedLayoutBuilder& builder) const {
    std::vector<int32_t> lists;
    for (size_t i = 0; i < sights_.size(); ++i) {
      builder.BeginList(tile.rows);
      const int64_t first = tile.first_row;
      const int64_t degree = sights_[i].degree;
      builder.ShowBand({0, tile.rows}, {first - degree, first + degree + 1},
                       {0, count_});
      if (sights_[i].arcs >= 0) {
        ShowArcs(tile, arcs_[sights_[i].arcs], builder);
      }
      // Every token sees itself.
      lists.push_back(builder.EndList());
    }
    return lists;
  }

 private:
  static void ShowArcs(const QueryTile& tile, const std::vector<TokenArc>& arcs,
                       MaskedLayoutBuilder& builder) {
    const auto begin = std::partition_point(
        arcs.begin(), arcs.end(),
        [&](const TokenArc& arc) { return arc.from < tile.first_row; });
    for (auto arc = begin;
         arc != arcs.end() && arc->from < tile.first_row + tile.rows; ++arc) {
      builder.ShowBits(arc->from - tile.first_row, arc->to / kPageTokens,
                       uint64_t{1} << (arc->to % kPageTokens));
    }
  }

  const int64_t count_;
  const std::vector<Sight>& sights_;
  // [sets]: arcs both ways, by where they come from, each once.
  std::vector<std::vector<TokenArc>> arcs_;
};

PassesSize SizeOf(const TokenGraph& graph, const std::vector<Sight>& sights) {
  const auto count = static_cast<int64_t>(graph.is_real.size());
  const int64_t tiles = BlocksOfAligned(count);
  PassesSize size = {.slots = graph.heads * count};
  for (const Sight& sight : sights) {
    const int64_t near =
        std::min(tiles, MostBlocksOf(kPageTokens + 2 * int64_t{sight.degree}));
    const int64_t arcs =
        sight.arcs < 0 ? 0
                       : static_cast<int64_t>(graph.arcs[sight.arcs].size());
    size.blocks += std::min(tiles * tiles, tiles * near + 2 * arcs);
  }
  return size;
}

}  // namespace

absl::StatusOr<AttentionPasses> TokenGraphPasses(
    const TokenGraphPattern& pattern, const TokenGraph& graph) {
  RETURN_IF_ERROR(CheckGraph(pattern, graph));
  // Sights, and which of them a head has.
  std::map<Sight, int32_t> known;
  std::vector<Sight> sights;
  std::vector<int32_t> sight_of;
  for (int32_t head = 0; head < graph.heads; ++head) {
    const Sight sight = SightOf(pattern, graph, head);
    const auto [at, is_new] =
        known.try_emplace(sight, static_cast<int32_t>(sights.size()));
    if (is_new) sights.push_back(sight);
    sight_of.push_back(at->second);
  }
  RETURN_IF_ERROR(CheckPassesSize("token_graph", SizeOf(graph, sights)));
  AttentionPass pass;
  pass.heads.resize(graph.heads);
  std::iota(pass.heads.begin(), pass.heads.end(), 0);
  const auto count = static_cast<int32_t>(graph.is_real.size());
  for (int32_t token = 0; token < count; ++token) {
    pass.key_tokens.push_back(graph.is_real[token] ? token : -1);
  }
  pass.query_tokens = pass.key_tokens;
  const SightLists all_lists(graph, sights);
  MaskedLayoutBuilder builder(graph.heads, graph.is_real);
  for (const QueryTile& tile : TilesOf(pass.query_tokens)) {
    const std::vector<int32_t> of_sight = all_lists.Add(tile, builder);
    std::vector<int32_t> lists;
    lists.reserve(sight_of.size());
    for (const int32_t sight : sight_of) lists.push_back(of_sight[sight]);
    builder.AddTile(tile, lists);
  }
  pass.layout = builder.TakeLayout();
  AttentionPasses passes = {.tokens = count, .heads = graph.heads};
  passes.passes.push_back(std::move(pass));
  SPARSESERVE_DCHECK(passes.Validate().ok());
  return passes;
}

}  // namespace sparseserve
