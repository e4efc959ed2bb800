#include "engine/layout/block_layout.h"

#include <algorithm>
#include <variant>

#include "absl/strings/str_cat.h"
#include "engine/base/status_macros.h"

namespace sparseserve {
namespace {

template <typename... Parts>
absl::Status Broken(const Parts&... parts) {
  return absl::InternalError(absl::StrCat("block layout: ", parts...));
}

absl::Status ValidateOffsets(const char* name,
                             const std::vector<int64_t>& offsets,
                             const std::vector<int32_t>& blocks) {
  if (offsets.empty() || offsets.front() != 0) {
    return Broken(name, " offsets do not begin with 0");
  }
  for (size_t l = 0; l + 1 < offsets.size(); ++l) {
    if (offsets[l + 1] < offsets[l]) {
      return Broken(name, " offset ", l + 1, " is ", offsets[l + 1],
                    ", below its predecessor ", offsets[l]);
    }
  }
  if (offsets.back() != static_cast<int64_t>(blocks.size())) {
    return Broken(name, " offsets end at ", offsets.back(), ", but there are ",
                  blocks.size(), " blocks");
  }
  return absl::OkStatus();
}

absl::Status ValidateAscending(const char* name, int64_t list,
                               const int32_t* begin, const int32_t* end) {
  for (const int32_t* block = begin; block < end; ++block) {
    if (*block < 0)
      return Broken(name, " block of list ", list, " is ", *block);
    if (block > begin && *block <= block[-1]) {
      return Broken(name, " blocks of list ", list,
                    " do not ascend: ", block[-1], ", ", *block);
    }
  }
  return absl::OkStatus();
}

absl::Status ValidateList(const BlockLayout& layout, int64_t list) {
  const int32_t* full = layout.full_blocks.data() + layout.full_offsets[list];
  const int32_t* full_end =
      layout.full_blocks.data() + layout.full_offsets[list + 1];
  const int32_t* partial =
      layout.partial_blocks.data() + layout.partial_offsets[list];
  const int32_t* partial_end =
      layout.partial_blocks.data() + layout.partial_offsets[list + 1];
  const KeyPredicate* const predicate = layout.PredicateOf(list);
  const bool may_be_empty =
      predicate != nullptr && std::holds_alternative<NoKeys>(predicate->rule);
  if (full == full_end && partial == partial_end && !may_be_empty) {
    return Broken("list ", list, " is empty");
  }
  RETURN_IF_ERROR(ValidateAscending("full", list, full, full_end));
  RETURN_IF_ERROR(ValidateAscending("partial", list, partial, partial_end));
  while (full < full_end && partial < partial_end) {
    if (*full == *partial) {
      return Broken("block ", *full, " of list ", list,
                    " is both full and partial");
    }
    if (*full < *partial) {
      ++full;
    } else {
      ++partial;
    }
  }
  return absl::OkStatus();
}

constexpr int64_t kBitsOfKeys = 64;

// Whether every row of the tile sees all of a block's keys, or some row one.
bool SeesAll(const KeyPredicate& predicate, const QueryTile& tile,
             int64_t first_key) {
  for (int32_t r = 0; r < tile.rows; ++r) {
    const int64_t row = int64_t{tile.first_position} + r;
    if (predicate.SeenBits(row, first_key) != ~uint64_t{0}) return false;
  }
  return true;
}

bool SeesAny(const KeyPredicate& predicate, const QueryTile& tile,
             int64_t first_key) {
  for (int32_t r = tile.rows - 1; r >= 0; --r) {
    const int64_t row = int64_t{tile.first_position} + r;
    if (predicate.SeenBits(row, first_key) != 0) return true;
  }
  return false;
}

absl::Status ValidatePredicate(const BlockLayout& layout, size_t tile_index,
                               int64_t list) {
  const KeyPredicate* predicate = layout.PredicateOf(list);
  if (predicate == nullptr) return absl::OkStatus();
  if (layout.block_tokens != kBitsOfKeys) {
    return Broken("block_tokens is ", layout.block_tokens,
                  "; predicates are for ", kBitsOfKeys);
  }
  const QueryTile& tile = layout.tiles[tile_index];
  for (int64_t i = layout.full_offsets[list]; i < layout.full_offsets[list + 1];
       ++i) {
    const int64_t block = layout.full_blocks[i];
    if (!SeesAll(*predicate, tile, block * kBitsOfKeys)) {
      return Broken("full block ", block, " of list ", list,
                    " hides a key from a row of tile ", tile_index);
    }
  }
  for (int64_t i = layout.partial_offsets[list];
       i < layout.partial_offsets[list + 1]; ++i) {
    const int64_t block = layout.partial_blocks[i];
    if (!SeesAny(*predicate, tile, block * kBitsOfKeys)) {
      return Broken("partial block ", block, " of list ", list,
                    " shows no key to any row of tile ", tile_index);
    }
  }
  return absl::OkStatus();
}

// Of every partial block of the tile some row sees a key.
absl::Status ValidateMasks(const BlockLayout& layout, size_t tile_index,
                           int64_t list) {
  const uint64_t* end =
      layout.masks.data() + layout.partial_offsets[list + 1] * kBitsOfKeys;
  for (const uint64_t* mask =
           layout.masks.data() + layout.partial_offsets[list] * kBitsOfKeys;
       mask < end; mask += kBitsOfKeys) {
    const uint64_t* rows_end = mask + layout.tiles[tile_index].rows;
    if (std::all_of(mask, rows_end, [](uint64_t bits) { return bits == 0; })) {
      return Broken("a mask of list ", list,
                    " shows no key to any row of tile ", tile_index);
    }
  }
  return absl::OkStatus();
}

absl::Status ValidateMaskSizes(const BlockLayout& layout) {
  const size_t partial = layout.partial_blocks.size();
  if (!layout.has_masks) {
    if (layout.masks.empty() && layout.full_bias_of.empty() &&
        layout.partial_bias_of.empty() && layout.bias_tiles.empty()) {
      return absl::OkStatus();
    }
    return Broken("masks or biases in a layout without masks");
  }
  if (layout.block_tokens != kBitsOfKeys) {
    return Broken("block_tokens is ", layout.block_tokens, "; masks are for ",
                  kBitsOfKeys);
  }
  if (layout.masks.size() != partial * kBitsOfKeys) {
    return Broken(layout.masks.size(), " words of masks for ", partial,
                  " partial blocks");
  }
  if (!layout.predicates.empty()) return Broken("both masks and predicates");
  const int64_t tiles = static_cast<int64_t>(layout.bias_tiles.size()) /
                        (kBitsOfKeys * kBitsOfKeys);
  for (const auto* bias_of : {&layout.full_bias_of, &layout.partial_bias_of}) {
    for (const int32_t tile : *bias_of) {
      if (tile < -1 || tile >= tiles) {
        return Broken("a block names bias tile ", tile, " of ", tiles);
      }
    }
  }
  const bool no_bias =
      layout.full_bias_of.empty() && layout.partial_bias_of.empty();
  if (!no_bias && (layout.full_bias_of.size() != layout.full_blocks.size() ||
                   layout.partial_bias_of.size() != partial)) {
    return Broken(layout.full_bias_of.size(), " and ",
                  layout.partial_bias_of.size(), " biases for ",
                  layout.full_blocks.size(), " full and ", partial,
                  " partial blocks");
  }
  return absl::OkStatus();
}

absl::Status ValidateTile(const BlockLayout& layout, size_t tile_index) {
  const QueryTile& tile = layout.tiles[tile_index];
  const int64_t first = tile.first_position;
  if (tile.rows < 1 || tile.rows > layout.block_tokens) {
    return Broken("tile ", tile_index, " has ", tile.rows,
                  " rows; allowed: 1 ... ", layout.block_tokens);
  }
  if (tile.slice < 0 || tile.first_row < 0 || first < 0) {
    return Broken("tile ", tile_index, " has slice ", tile.slice, ", row ",
                  tile.first_row, ", position ", first,
                  "; none may be negative");
  }
  const int64_t last = first + tile.rows - 1;
  if (first / layout.block_tokens != last / layout.block_tokens) {
    return Broken("tile ", tile_index, " with positions ", first, " ... ", last,
                  " crosses a block border");
  }
  for (int32_t head = 0; head < layout.kv_heads; ++head) {
    const int64_t list = layout.list_of[tile_index * layout.kv_heads + head];
    if (list < 0 || list >= layout.lists()) {
      return Broken("tile ", tile_index, ", KV head ", head, " names list ",
                    list, " of ", layout.lists());
    }
    if (layout.has_masks) {
      RETURN_IF_ERROR(ValidateMasks(layout, tile_index, list));
      continue;
    }
    // Blocks ascend, so the last one of each kind is the one to look at.
    const int64_t full_end = layout.full_offsets[list + 1];
    if (full_end > layout.full_offsets[list]) {
      const int64_t block = layout.full_blocks[full_end - 1];
      if ((block + 1) * layout.block_tokens > first) {
        return Broken("full block ", block, " of list ", list,
                      " ends after position ", first, " of tile ", tile_index);
      }
    }
    const int64_t partial_end = layout.partial_offsets[list + 1];
    if (partial_end > layout.partial_offsets[list]) {
      const int64_t block = layout.partial_blocks[partial_end - 1];
      if (block * layout.block_tokens > last) {
        return Broken("partial block ", block, " of list ", list,
                      " begins after position ", last, " of tile ", tile_index);
      }
    }
    RETURN_IF_ERROR(ValidatePredicate(layout, tile_index, list));
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status BlockLayout::Validate() const {
  if (block_tokens < 1) return Broken("block_tokens is ", block_tokens);
  if (kv_heads < 1) return Broken("kv_heads is ", kv_heads);
  if (list_of.size() != tiles.size() * kv_heads) {
    return Broken("list_of has ", list_of.size(), " entries for ", tiles.size(),
                  " tiles and ", kv_heads, " KV heads");
  }
  if (!skip_below.empty() && skip_below.size() != list_of.size()) {
    return Broken("skip_below has ", skip_below.size(), " entries for ",
                  tiles.size(), " tiles and ", kv_heads, " KV heads");
  }
  for (const float distance : skip_below) {
    if (!(distance <= 0)) {
      return Broken("a skip_below is ", distance, "; allowed: at most 0");
    }
  }
  RETURN_IF_ERROR(ValidateOffsets("full", full_offsets, full_blocks));
  RETURN_IF_ERROR(ValidateOffsets("partial", partial_offsets, partial_blocks));
  if (full_offsets.size() != partial_offsets.size()) {
    return Broken(full_offsets.size(), " full offsets, but ",
                  partial_offsets.size(), " partial ones");
  }
  if (!predicate_of.empty() &&
      static_cast<int64_t>(predicate_of.size()) != lists()) {
    return Broken(predicate_of.size(), " predicates for ", lists(), " lists");
  }
  RETURN_IF_ERROR(ValidateMaskSizes(*this));
  for (int64_t list = 0; list < lists(); ++list) {
    if (!predicate_of.empty() &&
        (predicate_of[list] < -1 ||
         predicate_of[list] >= static_cast<int64_t>(predicates.size()))) {
      return Broken("list ", list, " names predicate ", predicate_of[list],
                    " of ", predicates.size());
    }
    RETURN_IF_ERROR(ValidateList(*this, list));
  }
  for (size_t tile = 0; tile < tiles.size(); ++tile) {
    RETURN_IF_ERROR(ValidateTile(*this, tile));
  }
  return absl::OkStatus();
}

}  // namespace sparseserve
