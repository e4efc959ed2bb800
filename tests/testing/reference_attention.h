#pragma once

#include <vector>

#include "engine/backend/backend.h"

namespace sparseserve {

struct ReferenceAttentionResult {
  std::vector<double> output;  // [rows, heads * head_dim]
  std::vector<double> lse;     // [rows, heads]
};

// What attention over a block layout means, one (row, head, key) at a time in
// double precision. Reads args' queries, KV, pages, layout, scale and softcap;
// ignores its output and lse. Rows that no tile names are 0 with lse 0.
ReferenceAttentionResult ReferenceAttention(const AttentionArgs& args);

}  // namespace sparseserve
