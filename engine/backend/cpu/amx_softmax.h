#pragma once

#include "engine/backend/cpu/amx_attention.h"

namespace sparseserve::cpu {

// Decides which of the blocks held kAmxRows rows from `first_row` on keep, and
// turns their scores into weights exp(scaled score - new maximum), in bf16;
// updates the rows' maximum, sum and output. A NaN score makes its row's sum
// NaN. Rows behind the last are computed like the others, from whatever is
// there, but decide nothing. REQUIRES: scale > 0.
void WeighAmxRows(int first_row, AttentionScratch& scratch);

}  // namespace sparseserve::cpu
