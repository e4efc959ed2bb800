#pragma once

// What the launchers refuse alike.

#include <cstdint>
#include <initializer_list>
#include <limits>
#include <string>

#include "engine/backend/cuda/launch_status.h"
#include "engine/backend/cuda/paged_kv.h"

namespace sparseserve::cuda {

inline LaunchStatus OutOfRange(const char* name, std::int64_t value,
                               const char* range) {
  return LaunchStatus::Error(std::string(name) + " is " +
                             std::to_string(value) + "; must be " + range);
}

inline LaunchStatus CheckHeads(const PagedKv& kv, std::int32_t heads) {
  if (kv.head_dim != 64 && kv.head_dim != 128) {
    return OutOfRange("head_dim", kv.head_dim, "64 or 128");
  }
  if (kv.kv_heads < 1) return OutOfRange("kv_heads", kv.kv_heads, "at least 1");
  if (heads < 1 || heads % kv.kv_heads != 0) {
    return OutOfRange("heads", heads, "a positive multiple of kv_heads");
  }
  // Rows of the matrix of keys are counted in 32 bits.
  const std::int64_t most_pages =
      std::numeric_limits<std::int32_t>::max() / 64 / kv.kv_heads;
  if (kv.pages < 1 || kv.pages > most_pages) {
    return OutOfRange("pages", kv.pages,
                      ("1 to " + std::to_string(most_pages)).c_str());
  }
  return LaunchStatus();
}

// Of rows of queries or of output, `heads` * `head_dim` wide.
inline LaunchStatus CheckStride(const char* name, std::int64_t stride,
                                std::int64_t width) {
  if (stride >= width && stride % 8 == 0) return LaunchStatus();
  return OutOfRange(name, stride,
                    "a multiple of 8 and at least heads * head_dim");
}

inline LaunchStatus CheckScale(float scale) {
  if (scale > 0.0f) return LaunchStatus();
  return LaunchStatus::Error("scale is " + std::to_string(scale) +
                             "; must be positive");
}

// Of rows that are taken 8 elements at a time.
inline LaunchStatus CheckColumns(std::int32_t columns, std::int32_t most) {
  if (columns >= 8 && columns % 8 == 0 && columns <= most) {
    return LaunchStatus();
  }
  return OutOfRange("columns", columns,
                    ("a multiple of 8, 8 to " + std::to_string(most)).c_str());
}

// Threads for so many pieces of work, but `most` at most: whole warps.
inline unsigned WholeWarps(std::int64_t pieces, unsigned most) {
  const std::int64_t threads = (pieces + 31) / 32 * 32;
  return threads < most ? static_cast<unsigned>(threads) : most;
}

// `names` says which they are.
inline LaunchStatus CheckAligned(const char* names,
                                 std::initializer_list<const void*> pointers) {
  for (const void* pointer : pointers) {
    if (pointer == nullptr ||
        reinterpret_cast<std::uintptr_t>(pointer) % 16 != 0) {
      return LaunchStatus::Error(std::string(names) +
                                 " must be 16-byte aligned and not null");
    }
  }
  return LaunchStatus();
}

}  // namespace sparseserve::cuda
