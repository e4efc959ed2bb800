#pragma once

// Limits of inference_service.proto on one request that do not depend on the
// model.

namespace sparseserve {

inline constexpr int kMaxMessages = 1024;
inline constexpr int kMaxLogitBiases = 1024;
inline constexpr int kMaxStopStrings = 16;
inline constexpr int kMaxStopStringBytes = 256;
inline constexpr int kMaxStopTokens = 64;
inline constexpr int kMaxLogprobs = 20;

}  // namespace sparseserve
