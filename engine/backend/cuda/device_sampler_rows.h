#pragma once

// What DeviceSampler copies to the device for each row.

#include <cstdint>

namespace sparseserve::cuda {

// A part of the listed elements: 4 bytes each, behind the rows' structs.
struct ListedRange {
  std::int32_t begin = 0;
  std::int32_t count = 0;
};

// RowSampling with ranges in place of pointers.
struct PackedRow {
  std::uint64_t seed = 0;
  std::uint64_t draw_index = 0;
  std::int32_t wants_token = 0;
  std::int32_t top_k = 0;  // 0: all
  std::int32_t logprobs = -1;
  float temperature = 1.0f;
  float top_p = 1.0f;
  float min_p = 0.0f;
  float repetition_penalty = 1.0f;
  float presence_penalty = 0.0f;
  float frequency_penalty = 0.0f;
  ListedRange biases;  // of pairs: token, bits of the bias
  ListedRange banned;
  ListedRange prompt;  // empty where no penalty looks at it, like the next
  ListedRange output;
};

}  // namespace sparseserve::cuda
