#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "engine/backend/backend.h"
#include "engine/backend/cuda/decode_attention.h"
#include "engine/backend/cuda/paged_kv.h"
#include "engine/backend/cuda/prefill_attention.h"
#include "engine/backend/cuda/step_arrays.h"
#include "engine/layout/block_layout.h"
#include "engine/step.h"

namespace sparseserve::cuda {

// A BlockLayout as the kernels are given it. What is said to be the host's is
// for who chooses other lists in place of these.
struct DeviceLayout {
  // Single rows in front of the batch whose lists causality alone masks.
  struct Decode {
    int32_t sequences = 0;  // rows 0 ... sequences - 1; 0: there are none
    const int32_t* lengths = nullptr;
    DecodeLists lists;
    const int32_t* page_tables = nullptr;  // [output rows, stride]
    // The host's, [sequences, kv_heads] and what they say of `blocks`.
    std::vector<int32_t> counts;
    std::vector<int64_t> offsets;
    std::vector<int32_t> blocks;
  };
  Decode decode;
  // All single rows in front, also those that are tiles of `prefill`.
  struct OutputRows {
    int32_t rows = 0;
    const int32_t* lengths = nullptr;  // [rows]: keys of each, or 0
    // The host's, [rows].
    std::vector<int32_t> tiles;  // of the layout; -1: none
    std::vector<int32_t> blocks;
  };
  OutputRows output_rows;
  // All other tiles; `slice` indexes `page_tables`.
  DeviceBlockLists prefill;
  const int32_t* page_tables = nullptr;  // [slices, stride]
  int64_t page_table_stride = 0;
  // The host's.
  struct PrefillTiles {
    std::vector<int32_t> tiles;        // [prefill.tiles]: of the layout
    std::vector<int32_t> first_tiles;  // of each slice that has some
    int32_t most_blocks = 0;           // that one of them may visit
    int64_t lists = 0;
    int64_t full_blocks = 0;
    int64_t partial_blocks = 0;
  };
  PrefillTiles prefill_tiles;
};

// Builds them; keeps its memory between calls. One thread.
class DeviceLayoutBuilder {
 public:
  // Of the batch's first `decode_rows` rows those that the kernel for decoding
  // can take go to it. Copies by way of `arrays`, whose lifetime the result
  // shares. UNIMPLEMENTED for what only encoders have: masks and biases.
  absl::StatusOr<DeviceLayout> Build(
      const BlockLayout& layout,
      absl::Span<const absl::Span<const PageId>> pages, int64_t decode_rows,
      StepArrays& arrays);

 private:
  bool IsForDecode(const BlockLayout& layout, size_t tile,
                   int64_t decode_rows) const;
  void AddDecodeTile(const BlockLayout& layout, size_t tile);
  void AddPrefillTile(const BlockLayout& layout, size_t tile,
                      DeviceLayout::PrefillTiles& tiles);
  // Arrays of what AddDecodeTile() saw.
  void FinishDecode(absl::Span<const absl::Span<const PageId>> pages,
                    DeviceLayout& result, StepArrays& arrays);
  void AddMasks(const BlockLayout& layout);
  void OrderPrefill(const BlockLayout& layout);

  std::vector<int32_t> tables_;
  std::vector<int32_t> decode_tables_;
  std::vector<int32_t> lengths_;      // 0 where the kernel for prefill goes
  std::vector<int32_t> row_lengths_;  // of all single output rows
  std::vector<int32_t> counts_;
  std::vector<int64_t> offsets_;
  std::vector<int32_t> blocks_;
  std::vector<int32_t> tile_fields_;
  std::vector<int32_t> list_of_;
  std::vector<uint64_t> masks_;
  std::vector<int32_t> order_;
  std::vector<int32_t> decode_slices_;  // [decode sequences]
};

// A layer's keys and values as kernels take them, with page tables [slices,
// stride] on the device.
PagedKv Paged(const KvLayerView& view, const int32_t* page_tables,
              int64_t stride);

}  // namespace sparseserve::cuda
