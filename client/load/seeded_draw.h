#pragma once

#include <cstdint>

namespace sparseserve {

// What a draw decides; each has draws of its own, so that a run with one more
// option keeps the others' choices.
enum class DrawOf : uint64_t {
  kArrival,
  kClass,
  kPromptTokens,
  kOutputTokens,
  kPrefix,
  kCancel,
  kWord,
};

// A number in [0, 1) that follows from the arguments alone, the same on every
// machine: what request `index` gets does not depend on when it is asked.
inline double SeededDraw(uint64_t seed, DrawOf what, int64_t index) {
  // SplitMix64 over a counter that starts elsewhere for each seed and purpose.
  uint64_t state = seed * 0x9e3779b97f4a7c15u +
                   static_cast<uint64_t>(what) * 0xd1b54a32d192ed03u +
                   static_cast<uint64_t>(index);
  for (int round = 0; round < 2; ++round) {
    state += 0x9e3779b97f4a7c15u;
    state = (state ^ (state >> 30)) * 0xbf58476d1ce4e5b9u;
    state = (state ^ (state >> 27)) * 0x94d049bb133111ebu;
    state ^= state >> 31;
  }
  return static_cast<double>(state >> 11) * 0x1p-53;
}

}  // namespace sparseserve
