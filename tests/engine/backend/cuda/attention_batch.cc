#include "tests/engine/backend/cuda/attention_batch.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "tests/engine/backend/cuda/bfloat16_bits.h"

namespace sparseserve::cuda {
namespace {

constexpr int kPageTokens = 64;
// More pages than slices need, so that some are nobody's.
constexpr int kFreePages = 5;
// Rows of no tile behind each slice.
constexpr int kGapRows = 3;

int BlocksOf(const SliceShape& slice) {
  return (slice.context + slice.rows + kPageTokens - 1) / kPageTokens;
}

void AddTiles(int slice_index, const SliceShape& slice, std::int64_t first_row,
              std::vector<std::int32_t>& tile_fields) {
  for (int row = 0; row < slice.rows;) {
    const int position = slice.context + row;
    const int rows =
        std::min(slice.rows - row, kPageTokens - position % kPageTokens);
    tile_fields.insert(tile_fields.end(),
                       {slice_index, static_cast<std::int32_t>(first_row + row),
                        rows, position});
    row += rows;
  }
}

// Gives the slice its pages and writes NaN behind its last key. What is behind
// its last value is finite, as the contract has it.
void TakePages(int slice_index, HostBatch& batch,
               std::vector<std::int32_t>& free_pages) {
  const SliceShape& slice = batch.shape.slices[slice_index];
  const int kv_heads = batch.shape.kv_heads, width = batch.shape.head_dim;
  const int tokens = slice.context + slice.rows;
  for (int block = 0; block < BlocksOf(slice); ++block) {
    const int page = free_pages.back();
    free_pages.pop_back();
    batch.page_tables[slice_index * batch.page_table_stride + block] = page;
    for (int head = 0; head < kv_heads; ++head) {
      for (int token = 0; token < kPageTokens; ++token) {
        if (block * kPageTokens + token < tokens) continue;
        auto key =
            batch.keys.begin() +
            ((std::int64_t{page} * kv_heads + head) * kPageTokens + token) *
                width;
        std::fill(key, key + width, kBfloat16Nan);
      }
    }
  }
}

double Dot(const std::uint16_t* a, const std::uint16_t* b, int size) {
  double sum = 0;
  for (int i = 0; i < size; ++i) {
    sum += double{FromBfloat16(a[i])} * FromBfloat16(b[i]);
  }
  return sum;
}

// Keys that a row sees: where they begin in keys and values.
std::vector<std::int64_t> VisibleTo(const HostBatch& batch, int tile,
                                    int tile_row, int kv_head) {
  const HostLists& lists = batch.lists;
  const std::int32_t* fields = &lists.tile_fields[tile * 4];
  const int list = lists.list_of[tile * batch.shape.kv_heads + kv_head];
  std::vector<std::int64_t> visible;
  const auto add = [&](int block, int key) {
    const std::int64_t page =
        batch.page_tables[fields[0] * batch.page_table_stride + block];
    visible.push_back(
        ((page * batch.shape.kv_heads + kv_head) * kPageTokens + key) *
        batch.shape.head_dim);
  };
  for (auto i = lists.full_offsets[list]; i < lists.full_offsets[list + 1];
       ++i) {
    for (int key = 0; key < kPageTokens; ++key) {
      add(lists.full_blocks[i], key);
    }
  }
  for (auto i = lists.partial_offsets[list];
       i < lists.partial_offsets[list + 1]; ++i) {
    const int block = lists.partial_blocks[i];
    for (int key = 0; key < kPageTokens; ++key) {
      const bool shown =
          lists.partial_masks.empty()
              ? block * kPageTokens + key <= fields[3] + tile_row
              : (lists.partial_masks[i * kPageTokens + tile_row] >> key) & 1;
      if (shown) add(block, key);
    }
  }
  return visible;
}

}  // namespace

std::vector<std::uint16_t> RandomElements(std::int64_t count,
                                          std::mt19937& random) {
  std::normal_distribution<float> normal;
  std::vector<std::uint16_t> drawn(1 << 16);
  for (std::uint16_t& element : drawn) element = ToBfloat16(normal(random));
  std::vector<std::uint16_t> elements(count);
  for (std::int64_t i = 0; i < count; i += 2) {
    const std::uint32_t bits = random();
    elements[i] = drawn[bits & 0xffff];
    if (i + 1 < count) elements[i + 1] = drawn[bits >> 16];
  }
  return elements;
}

int HostLists::EndList() {
  full_offsets.push_back(static_cast<std::int64_t>(full_blocks.size()));
  partial_offsets.push_back(static_cast<std::int64_t>(partial_blocks.size()));
  return static_cast<int>(full_offsets.size()) - 2;
}

std::vector<float> MeanKeys(const HostBatch& batch) {
  const int width = batch.shape.head_dim;
  std::vector<float> means(batch.keys.size() / kPageTokens);
  for (std::size_t i = 0; i < batch.keys.size(); ++i) {
    means[i / width / kPageTokens * width + i % width] +=
        FromBfloat16(batch.keys[i]) / kPageTokens;
  }
  return means;
}

HostBatch MakeBatch(const BatchShape& shape, std::mt19937& random) {
  HostBatch batch;
  batch.shape = shape;
  batch.scale = 1.0f / std::sqrt(static_cast<float>(shape.head_dim));
  batch.pages = kFreePages;
  for (const SliceShape& slice : shape.slices) {
    AddTiles(static_cast<int>(&slice - shape.slices.data()), slice, batch.rows,
             batch.lists.tile_fields);
    batch.rows += slice.rows + kGapRows;
    batch.pages += BlocksOf(slice);
    batch.page_table_stride =
        std::max<std::int64_t>(batch.page_table_stride, BlocksOf(slice));
  }
  batch.queries =
      RandomElements(batch.rows * batch.heads() * shape.head_dim, random);
  const std::int64_t elements =
      std::int64_t{batch.pages} * shape.kv_heads * kPageTokens * shape.head_dim;
  batch.keys = RandomElements(elements, random);
  batch.values = RandomElements(elements, random);
  batch.page_tables.resize(shape.slices.size() * batch.page_table_stride);
  std::vector<std::int32_t> free_pages(batch.pages);
  std::iota(free_pages.begin(), free_pages.end(), 0);
  std::shuffle(free_pages.begin(), free_pages.end(), random);
  for (std::size_t i = 0; i < shape.slices.size(); ++i) {
    TakePages(static_cast<int>(i), batch, free_pages);
  }
  const std::int64_t page_size = elements / batch.pages;
  for (std::int32_t page : free_pages) {
    for (auto* stored : {&batch.keys, &batch.values}) {
      std::fill_n(stored->begin() + page * page_size, page_size, kBfloat16Nan);
    }
  }
  return batch;
}

ReferenceRow ReferenceAttention(const HostBatch& batch, int tile, int tile_row,
                                int head) {
  const int width = batch.shape.head_dim;
  const std::int64_t row = batch.lists.tile_fields[tile * 4 + 1] + tile_row;
  return ReferenceRowOver(
      &batch.queries[(row * batch.heads() + head) * width], batch.keys.data(),
      batch.values.data(),
      VisibleTo(batch, tile, tile_row, head / batch.shape.group), width,
      batch.scale);
}

ReferenceRow ReferenceRowOver(const std::uint16_t* query,
                              const std::uint16_t* keys,
                              const std::uint16_t* values,
                              const std::vector<std::int64_t>& visible,
                              int width, double scale) {
  std::vector<double> scores;
  double maximum = -std::numeric_limits<double>::infinity();
  for (std::int64_t key : visible) {
    scores.push_back(Dot(query, keys + key, width) * scale);
    maximum = std::max(maximum, scores.back());
  }
  ReferenceRow result;
  result.output.resize(width);
  result.magnitude.resize(width);
  double sum = 0;
  for (std::size_t i = 0; i < visible.size(); ++i) {
    const double weight = std::exp(scores[i] - maximum);
    sum += weight;
    for (int column = 0; column < width; ++column) {
      const double value = FromBfloat16(values[visible[i] + column]);
      result.output[column] += weight * value;
      result.magnitude[column] += weight * std::abs(value);
    }
  }
  result.lse = visible.empty() ? maximum : maximum + std::log(sum);
  for (int column = 0; column < width && !visible.empty(); ++column) {
    result.output[column] /= sum;
    result.magnitude[column] /= sum;
  }
  return result;
}

double OutputTolerance(double output, double magnitude) {
  return (std::abs(output) + magnitude) / 256 * 1.02 + 1e-6;
}

double LseTolerance(double lse) { return 1e-4 * std::max(1.0, std::abs(lse)); }

DeviceBatch::DeviceBatch(const HostBatch& batch)
    : host(&batch),
      queries(batch.queries),
      keys(batch.keys),
      values(batch.values),
      output(batch.queries.size()),
      lse(batch.rows * batch.heads()),
      page_tables(batch.page_tables),
      tile_fields(batch.lists.tile_fields),
      list_of(batch.lists.list_of),
      full_blocks(batch.lists.full_blocks),
      partial_blocks(batch.lists.partial_blocks),
      order(batch.lists.order),
      full_offsets(batch.lists.full_offsets),
      partial_offsets(batch.lists.partial_offsets),
      partial_masks(batch.lists.partial_masks) {}

PrefillAttentionArgs DeviceBatch::Args() const {
  PrefillAttentionArgs args;
  args.queries = queries.data();
  args.query_rows = host->rows;
  args.heads = host->heads();
  args.query_stride = std::int64_t{args.heads} * host->shape.head_dim;
  args.kv = {keys.data(),
             values.data(),
             host->pages,
             host->shape.kv_heads,
             host->shape.head_dim,
             page_tables.data(),
             host->page_table_stride};
  args.lists = {
      host->lists.tiles(),   tile_fields.data(),   list_of.data(),
      full_offsets.data(),   full_blocks.data(),   partial_offsets.data(),
      partial_blocks.data(), partial_masks.data(), order.data()};
  args.scale = host->scale;
  args.output = output.data();
  args.output_stride = args.query_stride;
  args.lse = lse.data();
  return args;
}

void DeviceBatch::PoisonResults() {
  cudaMemset(output.data(), 0xff, output.size() * sizeof(std::uint16_t));
  cudaMemset(lse.data(), 0xff, lse.size() * sizeof(float));
}

}  // namespace sparseserve::cuda
