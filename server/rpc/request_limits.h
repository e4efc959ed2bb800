#pragma once

#include <cstdint>

// Limits of inference_service.proto on one request that do not depend on the
// model, or hardly.

namespace sparseserve {

inline constexpr int kMaxMessages = 1024;
inline constexpr int kMaxLogitBiases = 1024;
inline constexpr int kMaxStopStrings = 16;
inline constexpr int kMaxStopStringBytes = 256;
inline constexpr int kMaxStopTokens = 64;
inline constexpr int kMaxLogprobs = 20;
inline constexpr int kMaxCacheSaltBytes = 128;
// ExplainAttention: tokens of a prompt, bytes of its profile, queries, and the
// heaviest keys of each, also over all queries and heads. A reply stays below
// the 64 MiB that our client takes.
inline constexpr int kMaxExplainedTokens = 8192;
inline constexpr int64_t kMaxProfileBytes = int64_t{256} << 20;
inline constexpr int kMaxExplainedQueries = 16;
inline constexpr int kMaxTopKeys = 64;
inline constexpr int kDefaultTopKeys = 8;
inline constexpr int64_t kMaxAttendedKeys = int64_t{1} << 20;
// Tokenize replies with a text for each token: this many stay far below the
// 4 MiB that gRPC's clients take. A longer context raises it.
inline constexpr int kMaxTokenizedTokens = 65'536;

}  // namespace sparseserve
