#pragma once

namespace sparseserve {

// Heads of one attention layer.
struct HeadShape {
  int heads = 0;
  int kv_heads = 0;
  int head_dim = 0;
};
inline constexpr HeadShape kDefaultModel = {9, 3, 64};
inline constexpr HeadShape kEightBillion = {32, 8, 128};

}  // namespace sparseserve
