#include "engine/pattern/axial_passes.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include "engine/base/check.h"
#include "engine/base/status_macros.h"
#include "engine/base/str_cat.h"
#include "engine/layout/masked_layout_builder.h"
#include "engine/pattern/passes_size.h"
#include "engine/step.h"

namespace sparseserve {
namespace {

// A grid along one of its axes.
struct Lines {
  int64_t places = 1;  // of the grid
  int64_t length = 1;  // of a line
  int64_t stride = 1;  // between neighbours in a line
};

// INVALID_ARGUMENT if the grid is none, or has no such axis.
absl::StatusOr<Lines> LinesOf(const AxialPattern& pattern,
                              const AxialGrid& grid) {
  const std::vector<int32_t>& shape = grid.shape;
  if (shape.empty() || shape.size() > kMaxEncoderAxes) {
    return absl::InvalidArgumentError(StrCat("axial: a grid of ", shape.size(),
                                             " axes; allowed: 1 to ",
                                             kMaxEncoderAxes));
  }
  RETURN_IF_ERROR(CheckEncoderPattern(pattern));
  if (pattern.axis >= static_cast<int32_t>(shape.size())) {
    return absl::InvalidArgumentError(
        StrCat("axial: axis is ", pattern.axis, "; allowed: 0 to ",
               shape.size() - 1, " of a grid of ", shape.size(), " axes"));
  }
  Lines lines;
  for (size_t axis = 0; axis < shape.size(); ++axis) {
    if (shape[axis] < 1 || lines.places * shape[axis] > kMaxEncoderTokens) {
      return absl::InvalidArgumentError(
          StrCat("axial: axis ", axis, " has ", shape[axis],
                 " places; allowed: 1 to ", kMaxEncoderTokens / lines.places));
    }
    lines.places *= shape[axis];
    if (static_cast<int32_t>(axis) > pattern.axis) lines.stride *= shape[axis];
  }
  lines.length = shape[pattern.axis];
  return lines;
}

absl::Status CheckGrid(const AxialPattern& pattern, const AxialGrid& grid,
                       const Lines& lines) {
  RETURN_IF_ERROR(CheckSequence(pattern, lines.places, grid.heads));
  if (static_cast<int64_t>(grid.is_real.size()) != lines.places) {
    return absl::InvalidArgumentError(StrCat("axial: ", grid.is_real.size(),
                                             " tokens for a grid of ",
                                             lines.places, " places"));
  }
  const int64_t tiles = BlocksOfAligned(lines.places);
  const int64_t of_tile =
      std::min(tiles, MostBlocksOf(kPageTokens + 2 * lines.length));
  return CheckPassesSize(
      "axial", {.slots = grid.heads * lines.places, .blocks = tiles * of_tile});
}

// The grid's tokens, line by line; -1 for padding.
std::vector<int32_t> TokensOf(const Lines& lines,
                              const std::vector<bool>& is_real) {
  std::vector<int32_t> tokens;
  tokens.reserve(lines.places);
  const int64_t slab = lines.stride * lines.length;
  for (int64_t line = 0; line < lines.places / lines.length; ++line) {
    const int64_t first = line / lines.stride * slab + line % lines.stride;
    for (int64_t i = 0; i < lines.length; ++i) {
      const int64_t token = first + i * lines.stride;
      tokens.push_back(is_real[token] ? static_cast<int32_t>(token) : -1);
    }
  }
  return tokens;
}

// Shows the tile's slots their lines.
void ShowLines(const AxialPattern& pattern, const QueryTile& tile,
               int64_t length, MaskedLayoutBuilder& builder) {
  const int64_t end = int64_t{tile.first_row} + tile.rows;
  for (int64_t slot = tile.first_row; slot < end;) {
    const int64_t first = slot / length * length;
    const int64_t stop = std::min(end, first + length);
    const MaskedLayoutBuilder::Rows rows = {
        static_cast<int32_t>(slot - tile.first_row),
        static_cast<int32_t>(stop - tile.first_row)};
    const MaskedLayoutBuilder::Keys line = {first, first + length};
    if (pattern.is_causal) {
      builder.ShowBand(rows, {slot + 1 - length, slot + 1}, line);
    } else {
      builder.Show(rows, line);
    }
    slot = stop;
  }
}

}  // namespace

absl::StatusOr<AttentionPasses> AxialPasses(const AxialPattern& pattern,
                                            const AxialGrid& grid) {
  ASSIGN_OR_RETURN(const Lines lines, LinesOf(pattern, grid));
  RETURN_IF_ERROR(CheckGrid(pattern, grid, lines));
  AttentionPass pass;
  pass.heads.resize(grid.heads);
  std::iota(pass.heads.begin(), pass.heads.end(), 0);
  pass.query_tokens = TokensOf(lines, grid.is_real);
  pass.key_tokens = pass.query_tokens;
  MaskedLayoutBuilder builder(grid.heads, HasToken(pass.key_tokens));
  for (const QueryTile& tile : TilesOf(pass.query_tokens)) {
    builder.BeginList(tile.rows);
    ShowLines(pattern, tile, lines.length, builder);
    // Every token sees itself.
    builder.AddTile(tile, std::vector<int32_t>(grid.heads, builder.EndList()));
  }
  pass.layout = builder.TakeLayout();
  AttentionPasses passes = {.tokens = static_cast<int32_t>(lines.places),
                            .heads = grid.heads};
  passes.passes.push_back(std::move(pass));
  SPARSESERVE_DCHECK(passes.Validate().ok());
  return passes;
}

}  // namespace sparseserve
