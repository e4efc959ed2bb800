#pragma once

// Limits of inference_service.proto on one request that do not depend on the
// model, or hardly.

namespace sparseserve {

inline constexpr int kMaxMessages = 1024;
inline constexpr int kMaxLogitBiases = 1024;
inline constexpr int kMaxStopStrings = 16;
inline constexpr int kMaxStopStringBytes = 256;
inline constexpr int kMaxStopTokens = 64;
inline constexpr int kMaxLogprobs = 20;
// Tokenize replies with a text for each token: this many stay far below the
// 4 MiB that gRPC's clients take. A longer context raises it.
inline constexpr int kMaxTokenizedTokens = 65'536;

}  // namespace sparseserve
