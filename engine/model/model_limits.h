#pragma once

#include <cstdint>

namespace sparseserve {

// Ceilings that no model of this size class reaches; they bound what a file
// can make the engine allocate before its tensors are seen. Every form of model
// file is held to them.
inline constexpr int64_t kMaxLayers = 1024;
inline constexpr int64_t kMaxWidth = 1 << 16;
inline constexpr int64_t kMaxMlpWidth = 1 << 18;
inline constexpr int64_t kMaxHeads = 1024;
inline constexpr int64_t kMaxHeadDim = 256;
// Attention kernels work on whole vectors of a head.
inline constexpr int64_t kHeadDimStep = 8;
inline constexpr int64_t kMaxContextTokens = 1 << 18;
inline constexpr int64_t kMaxVocabSize = 1 << 22;
inline constexpr int32_t kMaxWindowTokens = 1 << 30;
// Reals are below these.
inline constexpr float kMaxRopeBase = 1e12f;
inline constexpr float kMaxScalingFactor = 1e6f;
inline constexpr float kMaxCap = 1e6f;

}  // namespace sparseserve
