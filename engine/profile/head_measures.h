#pragma once

#include <cstdint>
#include <vector>

#include "engine/profile/attention_profile.h"

namespace sparseserve {

// What a head mostly does with its keys.
enum class HeadClass {
  kLocal,      // the nearest keys
  kSink,       // the first keys
  kSlash,      // keys at a few distances
  kVertical,   // a few keys, wherever the query is
  kDiffuse,    // all keys alike
  kRetrieval,  // none of these: keys that depend on content
};

// Of one head, as means over the sampled rows. Shares are of a row's dense
// weight, 0 to 1.
struct HeadMeasures {
  // What of a profile counts as near, as few and as much.
  static constexpr int kNearKeys = 128;
  static constexpr int kFewLines = 64;
  static constexpr double kClassShare = 0.8;

  double entropy = 0;           // nats
  double relative_entropy = 0;  // of the logarithm of the keys seen
  double effective_keys = 0;    // e^entropy

  // sum_j a_ij |i - j| (Vig and Belinkov, arXiv 1906.04284), and quantiles of
  // the distance of a weight drawn at random: the second is also the width of
  // the window that holds 0.9.
  double mean_distance = 0;
  int32_t median_distance = 0;
  int32_t distance_90 = 0;
  // The first without the weight on the first kSinkKeys keys; 0 where no other
  // is left.
  double mean_distance_without_sink = 0;

  // Element k: the weight on keys at a distance of at most 2^k, up to the first
  // that holds all.
  std::vector<double> locality;
  double near_share = 0;  // at most kNearKeys away
  // On the first 1, 4 and 64 keys.
  double sink_1 = 0;
  double sink_4 = 0;
  double sink_64 = 0;
  // On the kFewLines heaviest keys behind the first kSinkKeys, and distances
  // above kNearKeys.
  double vertical_share = 0;
  double slash_share = 0;

  // Element b: the weight on the b + 1 heaviest KV blocks of a query block, its
  // mean over query blocks; [blocks of the prompt].
  std::vector<double> block_recall;
  int32_t blocks_90 = 0;  // the first b + 1 whose element is at least 0.9

  // The class whose share is the largest (near_share, sink_4, slash_share,
  // vertical_share, relative_entropy; the first of equals), if that is at least
  // kClassShare; else kRetrieval.
  HeadClass head_class = HeadClass::kRetrieval;

  // Of the pattern that the prompt followed.
  double recall = 0;
  double low_recall_share = 0;  // of rows that kept less than a half
  double density = 0;  // visited blocks over those that causality allows
};

// REQUIRES: the prompt has run to its end.
HeadMeasures MeasuresOf(const AttentionProfile& profile, int32_t layer,
                        int32_t head);

}  // namespace sparseserve
