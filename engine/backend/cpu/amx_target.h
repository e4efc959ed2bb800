#pragma once

// Marks functions that may use AMX and the parts of AVX-512 that come with it.
// They run only where FindAmxAttentionKernels() says so.

#define SPARSESERVE_AMX                                                  \
  __attribute__((target(                                                 \
      "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,amx-tile,amx-bf16," \
      "fma")))
#define SPARSESERVE_AMX_INLINE \
  SPARSESERVE_AMX __attribute__((always_inline)) inline
