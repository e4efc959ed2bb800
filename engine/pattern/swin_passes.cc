#include "engine/pattern/swin_passes.h"

#include <algorithm>
#include <array>
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

constexpr int32_t kBlock = kPageTokens;
constexpr float kOtherRegion = -100;  // as released: not minus infinity

// Whether a window lies at the bottom, and at the right: where a shift has
// brought together what was apart.
using Border = std::array<bool, 2>;

class WindowBias {
 public:
  WindowBias(const SwinWindows& windows, const SwinGrid& grid)
      : windows_(windows),
        grid_(grid),
        places_(windows.window * windows.window),
        blocks_((places_ + kBlock - 1) / kBlock) {}

  int32_t blocks() const { return blocks_; }

  // The bias tiles between a window's blocks, [blocks of queries, blocks of
  // keys].
  std::vector<int32_t> AddTiles(const Border& border, int32_t head,
                                MaskedLayoutBuilder& builder) const {
    std::vector<int32_t> tiles;
    std::vector<float> values(kBlock * kBlock);
    for (int32_t query_block = 0; query_block < blocks_; ++query_block) {
      for (int32_t key_block = 0; key_block < blocks_; ++key_block) {
        for (int32_t i = 0; i < kBlock * kBlock; ++i) {
          values[i] = Bias(border, head, query_block * kBlock + i / kBlock,
                           key_block * kBlock + i % kBlock);
        }
        tiles.push_back(builder.AddBiasTile(values));
      }
    }
    return tiles;
  }

 private:
  // Between two places of a window, 0 where there are none.
  float Bias(const Border& border, int32_t head, int32_t query,
             int32_t key) const {
    if (query >= places_ || key >= places_) return 0;
    const int32_t window = windows_.window;
    const int32_t rows = query / window - key / window + window - 1;
    const int32_t columns = query % window - key % window + window - 1;
    const float bias =
        grid_.bias_table[(rows * (2 * window - 1) + columns) * grid_.heads +
                         head];
    const bool apart =
        (border[0] && IsWrapped(query / window) != IsWrapped(key / window)) ||
        (border[1] && IsWrapped(query % window) != IsWrapped(key % window));
    return apart ? bias + kOtherRegion : bias;
  }

  // Of a place in a window at the border.
  bool IsWrapped(int32_t place) const {
    return place >= windows_.window - windows_.shift;
  }

  const SwinWindows& windows_;
  const SwinGrid& grid_;
  const int32_t places_;
  const int32_t blocks_;
};

PassesSize SizeOf(const SwinWindows& windows, int32_t heads) {
  const int64_t places = int64_t{windows.window} * windows.window;
  const int64_t count = int64_t{windows.height} * windows.width / places;
  const int64_t blocks = BlocksOfAligned(places);
  const int64_t borders = windows.shift > 0 ? 4 : 1;
  return {.slots = heads * count * blocks * kBlock,
          .blocks = heads * count * blocks * blocks,
          .bias_tiles = heads * borders * blocks * blocks};
}

absl::Status CheckGrid(const SwinPattern& pattern, const SwinGrid& grid) {
  RETURN_IF_ERROR(CheckEncoderPattern(pattern));
  for (const int32_t side : {grid.height, grid.width}) {
    if (side >= 1 && side <= kMaxEncoderTokens) continue;
    return absl::InvalidArgumentError(
        StrCat("swin: a grid of ", grid.height, " x ", grid.width,
               "; allowed: sides of 1 to ", kMaxEncoderTokens));
  }
  const SwinWindows windows = WindowsOf(pattern, grid.height, grid.width);
  RETURN_IF_ERROR(CheckSequence(
      pattern, int64_t{windows.height} * windows.width, grid.heads));
  if (windows.window != pattern.window) {
    return absl::InvalidArgumentError(
        StrCat("swin: a grid of ", grid.height, " x ", grid.width,
               " is smaller than a window of ", pattern.window));
  }
  RETURN_IF_ERROR(CheckPassesSize("swin", SizeOf(windows, grid.heads)));
  const int64_t side = 2 * int64_t{pattern.window} - 1;
  const int64_t wanted = side * side * grid.heads;
  if (static_cast<int64_t>(grid.bias_table.size()) == wanted) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(StrCat("swin: a bias table of ",
                                           grid.bias_table.size(),
                                           " elements, not ", wanted));
}

// The padded grid's places, window by window.
std::vector<int32_t> PlacesOf(const SwinWindows& windows, int32_t slots) {
  std::vector<int32_t> places;
  const int32_t window = windows.window;
  for (int32_t top = 0; top < windows.height; top += window) {
    for (int32_t left = 0; left < windows.width; left += window) {
      for (int32_t i = 0; i < window * window; ++i) {
        const int32_t row = (top + i / window + windows.shift) % windows.height;
        const int32_t column =
            (left + i % window + windows.shift) % windows.width;
        places.push_back(row * windows.width + column);
      }
      places.insert(places.end(), slots - window * window, -1);
    }
  }
  return places;
}

}  // namespace

SwinWindows WindowsOf(const SwinPattern& pattern, int32_t height,
                      int32_t width) {
  SwinWindows windows = {.window = pattern.window, .shift = pattern.shift};
  if (std::min(height, width) <= pattern.window) {
    windows.window = std::min(height, width);
    windows.shift = 0;
  }
  const auto padded = [&](int32_t side) {
    return (side + windows.window - 1) / windows.window * windows.window;
  };
  windows.height = padded(height);
  windows.width = padded(width);
  return windows;
}

absl::StatusOr<AttentionPasses> SwinPasses(const SwinPattern& pattern,
                                           const SwinGrid& grid) {
  RETURN_IF_ERROR(CheckGrid(pattern, grid));
  const SwinWindows windows = WindowsOf(pattern, grid.height, grid.width);
  const WindowBias bias(windows, grid);
  const int32_t blocks = bias.blocks();
  AttentionPass pass;
  pass.heads.resize(grid.heads);
  std::iota(pass.heads.begin(), pass.heads.end(), 0);
  pass.query_tokens = PlacesOf(windows, blocks * kBlock);
  pass.key_tokens = pass.query_tokens;
  MaskedLayoutBuilder builder(grid.heads, HasToken(pass.key_tokens));
  // [bottom, right][heads]: as far as there are such windows.
  std::vector<std::vector<int32_t>> tiles_of[2][2];
  const int32_t across = windows.width / windows.window;
  const int32_t down = windows.height / windows.window;
  for (const QueryTile& tile : TilesOf(pass.query_tokens)) {
    const int32_t window = tile.first_row / kBlock / blocks;
    const Border border = {windows.shift > 0 && window / across == down - 1,
                           windows.shift > 0 && window % across == across - 1};
    auto& tiles = tiles_of[border[0]][border[1]];
    for (int32_t head = static_cast<int32_t>(tiles.size()); head < grid.heads;
         ++head) {
      tiles.push_back(bias.AddTiles(border, head, builder));
    }
    const int32_t query_block = tile.first_row / kBlock % blocks;
    std::vector<int32_t> lists;
    for (int32_t head = 0; head < grid.heads; ++head) {
      builder.BeginList(tile.rows);
      for (int32_t key_block = 0; key_block < blocks; ++key_block) {
        const int64_t block = int64_t{window} * blocks + key_block;
        builder.Show({0, tile.rows}, {block * kBlock, (block + 1) * kBlock});
        builder.SetBias(static_cast<int32_t>(block),
                        tiles[head][query_block * blocks + key_block]);
      }
      lists.push_back(builder.EndList());
    }
    builder.AddTile(tile, lists);
  }
  pass.layout = builder.TakeLayout();
  AttentionPasses passes = {.tokens = windows.height * windows.width,
                            .heads = grid.heads};
  passes.passes.push_back(std::move(pass));
  SPARSESERVE_DCHECK(passes.Validate().ok());
  return passes;
}

}  // namespace sparseserve
