#pragma once

// Upper bounds of the histograms' buckets. Thresholds of service level
// objectives are exact bounds (2.5 s to the first token, 50 ms between tokens).

#include <vector>

namespace sparseserve {

inline std::vector<double> CallSecondsBuckets() {
  return {.005, .01, .025, .05, .075, .1, .25, .5, .75,
          1,    2.5, 5,    7.5, 10,   20, 40,  80, 160};
}

inline std::vector<double> FirstTokenSecondsBuckets() {
  return {.001, .005, .01, .02, .04, .06, .08, .1, .25, .5,
          .75,  1,    2.5, 5,   7.5, 10,  20,  40, 80,  160};
}

inline std::vector<double> TokenGapSecondsBuckets() {
  return {.001, .002, .004, .006, .008, .01, .015, .02, .025, .03,
          .04,  .05,  .075, .1,   .15,  .2,  .3,   .5,  1,    2.5};
}

inline std::vector<double> QueueSecondsBuckets() {
  return {.0005, .001, .0025, .005, .01, .025, .05, .1,
          .25,   .5,   1,     2.5,  5,   10,   30,  60};
}

inline std::vector<double> PhaseSecondsBuckets() {
  return {.001, .0025, .005, .01, .025, .05, .1, .25,
          .5,   1,     2.5,  5,   10,   20,  40, 80};
}

inline std::vector<double> DurationSecondsBuckets() {
  return {.01,  .02,  .04,   .08,   .16,   .32,   .64,    1.28,
          2.56, 5.12, 10.24, 20.48, 40.96, 81.92, 163.84, 327.68};
}

inline std::vector<double> PromptTokensBuckets() {
  return {16, 64, 256, 1024, 4096, 16384, 65536, 262144, 1048576};
}

inline std::vector<double> GenerationTokensBuckets() {
  return {1, 4, 16, 64, 256, 1024, 4096, 16384};
}

inline std::vector<double> BatchRequestsBuckets() {
  return {1, 2, 4, 8, 16, 32, 64, 128, 256};
}

inline std::vector<double> BatchTokensBuckets() {
  return {1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384};
}

inline std::vector<double> DensityBuckets() {
  return {.01, .02, .05, .1, .15, .2, .3, .4, .5, .75, .9, 1};
}

inline std::vector<double> RecallBuckets() {
  return {.5, .7, .8, .85, .9, .925, .95, .97, .98, .99, .995, .999, 1};
}

// The most is the logarithm of a vocabulary's size.
inline std::vector<double> EntropyBuckets() {
  return {.01, .02, .05, .1, .2, .5, 1, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10, 12};
}

inline std::vector<double> SelectionSecondsBuckets() {
  return {.00005, .0001, .00025, .0005, .001, .0025, .005,
          .01,    .025,  .05,    .1,    .25,  .5};
}

}  // namespace sparseserve
