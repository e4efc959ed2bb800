#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <random>
#include <vector>

#include "engine/backend/backend.h"
#include "engine/layout/layout_builder.h"

namespace sparseserve {

// Slices of random queries and keys whose tiles all follow one rule. Queries
// and keys share a few directions, so that blocks differ in weight. KV memory
// that no position owns, and bounds of pages that are not full, are NaN, as a
// reused page's might be. Where keys are bf16, queries have its values.
class SelectionBatch {
 public:
  struct Shape {
    int heads = 0;
    int kv_heads = 0;
    int head_dim = 0;
    DType kv_dtype = DType::kF32;
  };
  // One sequence's rows of a batch: `rows` queries that end at position
  // `length` - 1.
  struct Slice {
    int length = 0;
    int rows = 0;
  };
  // A whole prompt, chunks that begin inside a block, and ends inside a group
  // of every stride.
  static std::vector<Slice> MixedSlices();

  SelectionBatch(const Shape& shape, std::vector<Slice> slices,
                 const SelectionRule& rule, uint32_t seed);
  SelectionBatch(const SelectionBatch&) = delete;

  // Borrows from this; stays until the next call.
  const SelectArgs& args();

  void SoftCap(float cap) { args_.softcap = cap; }
  const BlockLayout& selected() const { return selected_.layout(); }
  HeadSelection& selection(size_t tile, int kv_head) {
    return selections_[tile * shape_.kv_heads + kv_head];
  }
  // Heads other than `selecting` follow a pattern of positions.
  void OnlyHeadSelects(int selecting, const KeyPredicate& others);
  std::vector<float>& queries() { return queries_; }
  // Element `index` of all pages' keys.
  float KeyElement(int64_t index) const;
  // Draws the keys of a block of a slice from one direction, with little noise.
  void AlignKeys(size_t slice, int block);
  // Makes NaN of a block's keys and values, but not of its bounds.
  void PoisonBlock(size_t slice, int block, int kv_head);

  // Blocks of a list, full and partial, ascending.
  static std::vector<int32_t> Blocks(const BlockLayout& layout, size_t tile,
                                     int kv_head);

 private:
  void AllocatePages();
  // One head's vector: noise, and often one of eight directions.
  void Draw(float* to);
  void FillKv();
  // Of every full page.
  void FillBounds();
  int64_t FirstElement(size_t slice, int position, int kv_head) const;
  void Store(const std::vector<float>& vector, int64_t first,
             std::vector<std::byte>& to) const;
  void AddTiles(size_t slice);

  Shape shape_;
  std::vector<Slice> slices_;
  std::vector<SelectionRule> rules_;
  std::mt19937 random_;
  std::array<std::vector<float>, 8> directions_;
  LayoutBuilder base_, selected_;
  int64_t page_count_ = 0;
  std::vector<std::vector<PageId>> tables_;
  std::vector<absl::Span<const PageId>> spans_;
  std::vector<std::byte> keys_, values_, key_bounds_;
  std::vector<HeadSelection> selections_;
  std::vector<float> queries_;
  int64_t rows_ = 0;
  SelectArgs args_;
};

}  // namespace sparseserve
