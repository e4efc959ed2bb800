#pragma once

// A batch of slices with paged keys and values and block lists, in host memory,
// what attention over it should give, and the same batch on a device.

#include <cstdint>
#include <random>
#include <vector>

#include "engine/backend/cuda/prefill_attention.h"
#include "tests/engine/backend/cuda/device_array.h"

namespace sparseserve::cuda {

// Rows at positions [context, context + rows) of a sequence.
struct SliceShape {
  int context = 0;
  int rows = 0;
};

struct BatchShape {
  int head_dim = 64;
  int kv_heads = 2;
  int group = 1;  // query heads of a KV head
  std::vector<SliceShape> slices;
};

// As BlockLayout has them.
struct HostLists {
  std::vector<std::int32_t> tile_fields;
  std::vector<std::int32_t> list_of;
  std::vector<std::int64_t> full_offsets = {0};
  std::vector<std::int32_t> full_blocks;
  std::vector<std::int64_t> partial_offsets = {0};
  std::vector<std::int32_t> partial_blocks;
  std::vector<std::uint64_t> partial_masks;  // empty: causality
  std::vector<std::int32_t> order;           // may be empty

  int tiles() const { return static_cast<int>(tile_fields.size()) / 4; }
  // Ends the list whose blocks were appended; its number.
  int EndList();
};

struct HostBatch {
  BatchShape shape;
  // Rows of no tile lie between the slices and behind the last.
  std::int64_t rows = 0;
  std::vector<std::uint16_t> queries;  // [rows, heads, head_dim]
  int pages = 0;
  // [pages, kv_heads, 64, head_dim]; what no key was stored to is NaN, and of
  // values in pages that nobody has.
  std::vector<std::uint16_t> keys, values;
  std::int64_t page_table_stride = 0;
  std::vector<std::int32_t> page_tables;
  HostLists lists;  // tiles are there, lists are not
  float scale = 1.0f;

  int heads() const { return shape.kv_heads * shape.group; }
};

// Normally distributed, in bf16. Drawn from 2^16 of them, which benchmarks'
// hundreds of millions take a fraction of the time for.
std::vector<std::uint16_t> RandomElements(std::int64_t count,
                                          std::mt19937& random);

// Random rows, keys and values; scattered pages.
HostBatch MakeBatch(const BatchShape& shape, std::mt19937& random);

// [pages, kv_heads, head_dim]: the mean of each page's keys; NaN unless all of
// them are stored.
std::vector<float> MeanKeys(const HostBatch& batch);

// One query row of one head in double precision.
struct ReferenceRow {
  std::vector<double> output;     // [head_dim]
  std::vector<double> magnitude;  // [head_dim]: sum of weight * |value|
  double lse = 0;
};
// REQUIRES: `tile_row` below the tile's rows.
ReferenceRow ReferenceAttention(const HostBatch& batch, int tile, int tile_row,
                                int head);

// A query row of `width` over keys that begin at `visible` in keys and values.
ReferenceRow ReferenceRowOver(const std::uint16_t* query,
                              const std::uint16_t* keys,
                              const std::uint16_t* values,
                              const std::vector<std::int64_t>& visible,
                              int width, double scale);

// How far a bf16 output may be from the reference: weights are rounded to bf16
// before they multiply values, and so is the output: by 2^-8 of each at most,
// since bf16 has 8 bits. The rest is for single precision.
double OutputTolerance(double output, double magnitude);
double LseTolerance(double lse);

// The batch on the current device, and room for results.
struct DeviceBatch {
  explicit DeviceBatch(const HostBatch& batch);
  PrefillAttentionArgs Args() const;
  // Results become what no kernel writes.
  void PoisonResults();

  HostBatch const* host;
  DeviceArray<std::uint16_t> queries, keys, values, output;
  DeviceArray<float> lse;
  DeviceArray<std::int32_t> page_tables, tile_fields, list_of, full_blocks,
      partial_blocks, order;
  DeviceArray<std::int64_t> full_offsets, partial_offsets;
  DeviceArray<std::uint64_t> partial_masks;
};

}  // namespace sparseserve::cuda
