#include "tests/engine/backend/selection_batch.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <utility>

#include "engine/tensor/quant_blocks.h"

namespace sparseserve {

std::vector<SelectionBatch::Slice> SelectionBatch::MixedSlices() {
  return {{1, 1}, {333, 333}, {301, 70}, {500, 3}, {448, 128}};
}

SelectionBatch::SelectionBatch(const Shape& shape, std::vector<Slice> slices,
                               const SelectionRule& rule, uint32_t seed)
    : shape_(shape),
      slices_(std::move(slices)),
      rules_({rule}),
      random_(seed),
      base_(shape.kv_heads),
      selected_(shape.kv_heads) {
  for (size_t d = 0; d < directions_.size(); ++d) {
    std::mt19937 random(static_cast<uint32_t>(d));
    std::normal_distribution<float> normal;
    for (int i = 0; i < shape.head_dim; ++i) {
      directions_[d].push_back(normal(random));
    }
  }
  AllocatePages();
  FillKv();
  FillBounds();
  for (size_t s = 0; s < slices_.size(); ++s) AddTiles(s);
  selected_.CopyFrom(base_.layout());
  selections_.resize(base_.layout().list_of.size(), {.rule = 0});
  const int64_t width =
      int64_t{shape_.heads + 2 * shape_.kv_heads} * shape_.head_dim;
  queries_.resize(rows_ * width);
  for (int64_t r = 0; r < rows_ * width; r += shape_.head_dim) {
    Draw(queries_.data() + r);
  }
  // As tiles round them, so that a path that does so gives what others do.
  if (shape_.kv_dtype == DType::kBF16) {
    for (float& value : queries_) {
      value = BFloat16ToFloat(FloatToBFloat16(value));
    }
  }
  args_.queries = ConstMatrixView(queries_.data(), rows_, width);
  args_.heads = shape_.heads;
  args_.scale = 1.0f / std::sqrt(static_cast<float>(shape_.head_dim));
}

const SelectArgs& SelectionBatch::args() {
  spans_.assign(tables_.begin(), tables_.end());
  args_.pages = spans_;
  args_.kv = {.keys = keys_.data(),
              .values = values_.data(),
              .dtype = shape_.kv_dtype,
              .pages = static_cast<int32_t>(page_count_),
              .kv_heads = shape_.kv_heads,
              .head_dim = shape_.head_dim,
              .key_bounds = key_bounds_.data()};
  args_.base = &base_.layout();
  args_.rules = rules_;
  args_.selections = selections_;
  args_.selected = &selected_;
  return args_;
}

void SelectionBatch::OnlyHeadSelects(int selecting,
                                     const KeyPredicate& others) {
  const std::vector<QueryTile> tiles = base_.layout().tiles;
  base_.Clear();
  for (size_t t = 0; t < tiles.size(); ++t) {
    base_.AddTile(tiles[t]);
    const int32_t all = base_.AddListOf({});
    const int32_t own = base_.AddListOf(others);
    for (int head = 0; head < shape_.kv_heads; ++head) {
      base_.Assign(head, head == selecting ? all : own);
      if (head != selecting) selection(t, head) = {};
    }
  }
  selected_.CopyFrom(base_.layout());
}

void SelectionBatch::AlignKeys(size_t slice, int block) {
  std::normal_distribution<float> normal;
  std::vector<float> direction(shape_.head_dim);
  for (float& element : direction) element = normal(random_);
  const int end = std::min((block + 1) * kPageTokens, slices_[slice].length);
  for (int position = block * kPageTokens; position < end; ++position) {
    for (int head = 0; head < shape_.kv_heads; ++head) {
      std::vector<float> key = direction;
      for (float& element : key) element += 0.05f * normal(random_);
      Store(key, FirstElement(slice, position, head), keys_);
    }
  }
  FillBounds();
}

void SelectionBatch::PoisonBlock(size_t slice, int block, int kv_head) {
  const std::vector<float> nothing(shape_.head_dim,
                                   std::numeric_limits<float>::quiet_NaN());
  for (int offset = 0; offset < kPageTokens; ++offset) {
    const int64_t first =
        FirstElement(slice, block * kPageTokens + offset, kv_head);
    Store(nothing, first, keys_);
    Store(nothing, first, values_);
  }
}

std::vector<int32_t> SelectionBatch::Blocks(const BlockLayout& layout,
                                            size_t tile, int kv_head) {
  const int32_t list = layout.list_of[tile * layout.kv_heads + kv_head];
  std::vector<int32_t> blocks(
      layout.full_blocks.begin() + layout.full_offsets[list],
      layout.full_blocks.begin() + layout.full_offsets[list + 1]);
  blocks.insert(
      blocks.end(),
      layout.partial_blocks.begin() + layout.partial_offsets[list],
      layout.partial_blocks.begin() + layout.partial_offsets[list + 1]);
  std::sort(blocks.begin(), blocks.end());
  return blocks;
}

void SelectionBatch::AllocatePages() {
  for (const Slice& slice : slices_) {
    page_count_ += (slice.length + kPageTokens - 1) / kPageTokens;
  }
  std::vector<PageId> shuffled(page_count_);
  std::iota(shuffled.begin(), shuffled.end(), 0);
  std::shuffle(shuffled.begin(), shuffled.end(), random_);
  auto next = shuffled.begin();
  for (const Slice& slice : slices_) {
    const int count = (slice.length + kPageTokens - 1) / kPageTokens;
    tables_.emplace_back(next, next + count);
    next += count;
  }
}

void SelectionBatch::Draw(float* to) {
  std::normal_distribution<float> normal;
  for (int i = 0; i < shape_.head_dim; ++i) to[i] = 0.5f * normal(random_);
  const auto direction = random_() % (2 * directions_.size());
  if (direction >= directions_.size()) return;
  const std::vector<float>& own = directions_[direction];
  for (int i = 0; i < shape_.head_dim; ++i) to[i] += 2.5f * own[i];
}

int64_t SelectionBatch::FirstElement(size_t slice, int position,
                                     int kv_head) const {
  const int64_t page = tables_[slice][position / kPageTokens];
  return ((page * shape_.kv_heads + kv_head) * kPageTokens +
          position % kPageTokens) *
         shape_.head_dim;
}

void SelectionBatch::FillKv() {
  const int64_t elements =
      page_count_ * shape_.kv_heads * kPageTokens * shape_.head_dim;
  const int element_bytes = BlockBytes(shape_.kv_dtype);
  keys_.assign(elements * element_bytes, std::byte{0xFF});
  values_.assign(elements * element_bytes, std::byte{0xFF});
  std::vector<float> vector(shape_.head_dim);
  for (size_t s = 0; s < slices_.size(); ++s) {
    for (int position = 0; position < slices_[s].length; ++position) {
      for (int head = 0; head < shape_.kv_heads; ++head) {
        const int64_t first = FirstElement(s, position, head);
        Draw(vector.data());
        Store(vector, first, keys_);
        Draw(vector.data());
        Store(vector, first, values_);
      }
    }
  }
}

float SelectionBatch::KeyElement(int64_t index) const {
  return shape_.kv_dtype == DType::kBF16
             ? BFloat16ToFloat(
                   reinterpret_cast<const uint16_t*>(keys_.data())[index])
             : reinterpret_cast<const float*>(keys_.data())[index];
}

void SelectionBatch::FillBounds() {
  const int head_dim = shape_.head_dim;
  key_bounds_.assign(page_count_ * shape_.kv_heads * 2 * head_dim *
                         BlockBytes(shape_.kv_dtype),
                     std::byte{0xFF});
  for (size_t s = 0; s < slices_.size(); ++s) {
    for (int block = 0; (block + 1) * kPageTokens <= slices_[s].length;
         ++block) {
      for (int head = 0; head < shape_.kv_heads; ++head) {
        const int64_t first = FirstElement(s, block * kPageTokens, head);
        std::vector<float> greatest, least;
        for (int i = 0; i < head_dim; ++i) {
          std::vector<float> of_keys;
          for (int offset = 0; offset < kPageTokens; ++offset) {
            of_keys.push_back(KeyElement(first + offset * head_dim + i));
          }
          greatest.push_back(*std::max_element(of_keys.begin(), of_keys.end()));
          least.push_back(*std::min_element(of_keys.begin(), of_keys.end()));
        }
        const int64_t bounds = first / kPageTokens * 2;
        Store(greatest, bounds, key_bounds_);
        Store(least, bounds + head_dim, key_bounds_);
      }
    }
  }
}

void SelectionBatch::Store(const std::vector<float>& vector, int64_t first,
                           std::vector<std::byte>& to) const {
  for (size_t i = 0; i < vector.size(); ++i) {
    if (shape_.kv_dtype == DType::kBF16) {
      reinterpret_cast<uint16_t*>(to.data())[first + i] =
          FloatToBFloat16(vector[i]);
    } else {
      reinterpret_cast<float*>(to.data())[first + i] = vector[i];
    }
  }
}

void SelectionBatch::AddTiles(size_t slice) {
  int position = slices_[slice].length - slices_[slice].rows;
  while (position < slices_[slice].length) {
    QueryTile tile;
    tile.slice = static_cast<int32_t>(slice);
    tile.first_row = static_cast<int32_t>(rows_);
    tile.first_position = position;
    tile.rows = std::min(kPageTokens - position % kPageTokens,
                         slices_[slice].length - position);
    base_.AddTile(tile);
    const int32_t list =
        base_.AddList({{0, QueryBlock(tile, kPageTokens) + 1}});
    for (int head = 0; head < shape_.kv_heads; ++head) {
      base_.Assign(head, list);
    }
    rows_ += tile.rows;
    position += tile.rows;
  }
}

}  // namespace sparseserve
