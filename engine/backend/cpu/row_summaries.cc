#include "engine/backend/cpu/row_summaries.h"

#include "engine/base/check.h"

namespace sparseserve::cpu {

void RowSummaries::Begin(const SelectionKernels& kernels, const Shape& shape) {
  // A vector may be read or rewritten up to so many elements behind its end.
  constexpr int64_t kVector = 16;
  kernels_ = &kernels;
  blocks_ = shape.blocks;
  stride_ = (int64_t{shape.blocks} + kVector - 1) / kVector * kVector;
  rows_.rows = shape.rows;
  rows_.depth = shape.depth;
  rows_.factor = shape.factor;
  rows_.softcap = shape.softcap;
  rows_.key_dtype = shape.key_dtype;
  rows_.queries.assign(shape.rows * shape.depth, 0.0f);
  rows_.packed.clear();
  maxima_.resize(shape.rows * stride_);
  sums_.resize(shape.rows * stride_);
}

void RowSummaries::Add(int32_t first, const std::vector<const std::byte*>& keys,
                       int key_rows, const int32_t* seen) {
  const auto count = static_cast<int32_t>(keys.size());
  SPARSESERVE_CHECK(first >= 0 && first + count <= blocks_);
  SummaryBlocks blocks;
  blocks.keys = keys.data();
  blocks.blocks = count;
  blocks.key_rows = key_rows;
  blocks.seen = first + count == blocks_ ? seen : nullptr;
  kernels_->summarise_blocks(
      rows_, blocks, products_,
      {maxima_.data() + first, sums_.data() + first, stride_});
}

void RowSummaries::AddShares(int32_t row, std::vector<float>& shares) {
  kernels_->add_shares(maxima_.data() + row * stride_, blocks_,
                       sums_.data() + row * stride_, shares.data());
}

}  // namespace sparseserve::cpu
