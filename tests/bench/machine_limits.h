#pragma once

// What the machine itself can do, measured now: the denominators of the
// benchmarks' ratios. Each value is measured once a process.

namespace sparseserve {

// Bytes per second that `threads` threads read from memory.
double ReadBandwidth(int threads);

// Operations per second of oneDNN's product of two square matrices of 2048,
// in bf16 or f32, with each of `threads` threads computing its own.
double SquareProductRate(bool bf16, int threads);

}  // namespace sparseserve
