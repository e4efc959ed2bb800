#pragma once

#include <cstdint>
#include <vector>

#include "engine/backend/backend.h"
#include "engine/backend/cpu/slice_rows.h"

namespace sparseserve::cpu {

// Replaces `packed` with a KV head's queries times `factor`: row r of the
// group's head h is row h * rows.rows + r, of PaddedDepth() elements, zeros
// behind its own.
void PackQueries(const SelectArgs& args, const SliceRows& rows, int32_t kv_head,
                 float factor, std::vector<float>& packed);

}  // namespace sparseserve::cpu
