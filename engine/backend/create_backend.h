#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "engine/backend/backend.h"

namespace sparseserve {

// What a model asks of its device.
struct ModelNeeds {
  int32_t heads = 0;
  int32_t kv_heads = 0;
  int32_t head_dim = 0;
  int32_t hidden = 0;
  int32_t mlp_hidden = 0;
  int32_t vocab_size = 0;
  int32_t context_tokens = 0;
  float attention_softcap = 0;  // 0: none
  bool prunes_heads = false;    // some layers have fewer of them
};

struct BackendOptions {
  // "cpu", "cuda", or "auto": a GPU if there is one and it can run `model`,
  // else the CPU, which then says why (DeviceInfo::note).
  std::string device = "cpu";
  std::optional<ModelNeeds> model;
  int threads = 0;                     // 0: one per core this process may use
  std::string compute_dtype = "auto";  // "auto", "f32", "bf16"
  // Best CPU path to use: "auto", "avx512", "avx2", "sse4", "scalar". The
  // backend takes the best one that the CPU has and that is not above it.
  std::string simd = "auto";
  // Rows that one call may carry; scratch is sized by it.
  int max_rows = 512;
  // Rows that one step may make tokens of.
  int max_sampled_rows = 64;
};

// Which file defines this decides which devices are compiled in.
// INVALID_ARGUMENT names the option, its value and its range;
// FAILED_PRECONDITION says what the device that was asked for lacks.
absl::StatusOr<std::unique_ptr<Backend>> CreateBackend(
    const BackendOptions& options);

}  // namespace sparseserve
