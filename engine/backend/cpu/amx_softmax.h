#pragma once

#include "engine/backend/cpu/amx_attention.h"

namespace sparseserve::cpu {

// Turns the scores of kAmxRows rows from `first_row` on into weights
// exp(scaled score - new maximum), in bf16, and updates the rows' maximum, sum
// and output. A NaN score makes its row's sum NaN. Rows behind the last are
// computed like the others, from whatever is there. REQUIRES: scale > 0.
void WeighAmxRows(int first_row, AttentionScratch& scratch);

}  // namespace sparseserve::cpu
