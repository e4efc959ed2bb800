#pragma once

#include "engine/backend/cpu/selection_kernels.h"

namespace sparseserve::cpu {

// Those of AVX-512, but for packing and summarising rows: queries are rounded
// to bf16, as attention on tiles rounds them, and multiplied by keys of bf16 as
// these lie in memory, where depths are whole tiles (multiples of 32).
// REQUIRES: the CPU has AMX and the process may use it
// (FindAmxAttentionKernels()).
const SelectionKernels& AmxSelectionKernels();

}  // namespace sparseserve::cpu
