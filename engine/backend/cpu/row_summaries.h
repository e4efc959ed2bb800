#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "engine/backend/cpu/selection_kernels.h"

namespace sparseserve::cpu {

// What blocks of keys weigh for query rows: the softmax of a row over all keys
// that it sees, in parts of a block. One worker's memory.
class RowSummaries {
 public:
  struct Shape {
    int32_t rows = 0;
    int64_t depth = 0;   // a multiple of 16
    int32_t blocks = 0;  // of which the last may be seen in part
    float factor = 1;    // from a product to a score
    float softcap = 0;   // of scores, or 0
    DType key_dtype = DType::kF32;
  };

  // Forgets what it has. Borrows `kernels`. REQUIRES: kF32 or kBF16.
  void Begin(const SelectionKernels& kernels, const Shape& shape);
  // [rows, depth], zeros: to be written before Pack().
  float* queries() { return rows_.queries.data(); }
  void Pack() { kernels_->pack_rows(rows_); }

  // Blocks from `first` on. `seen` is as in SummaryBlocks, of the last of all
  // blocks. REQUIRES: each block once.
  void Add(int32_t first, const std::vector<const std::byte*>& keys,
           int key_rows, const int32_t* seen);

  // shares[b] += the weight of block b for a row. REQUIRES: all blocks were
  // added; once for each row; shares has PaddedBlocks() elements.
  void AddShares(int32_t row, std::vector<float>& shares);
  // blocks in whole vectors: what is behind the last is anything.
  int64_t PaddedBlocks() const { return stride_; }

 private:
  const SelectionKernels* kernels_ = nullptr;
  int32_t blocks_ = 0;
  int64_t stride_ = 0;
  SummaryRows rows_;
  std::vector<float> products_;
  std::vector<float> maxima_;  // [rows, stride_]
  std::vector<float> sums_;    // likewise
};

}  // namespace sparseserve::cpu
