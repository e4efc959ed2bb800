#pragma once

// Chooses KV blocks for all tiles of a slice by what its last rows attend to,
// on a GPU: VerticalSlashRule and FlexPrefillRule of
// engine/layout/selection_rule.h. No CUDA header is needed here.

#include <cstdint>
#include <memory>

#include "engine/backend/cuda/block_selection.h"
#include "engine/backend/cuda/launch_status.h"

struct CUstream_st;  // what cudaStream_t points to

namespace sparseserve::cuda {

// Arguments and lists are block selection's; a slice's tiles are in blocks that
// follow each other, and of those that have a rule one is its first, third or
// last. So one batch may have rules of both kinds: each with a
// rule_of of its own, in which the other's pairs are -1, one after the other,
// and the second with a null base_list_of, so that pairs without a rule keep
// the list that the first gave them. `order` is over all lists, so the second's
// counts.
//
// Owns room on the device; at most one Run() may be under way at any time: use
// one stream.
class LastRowsSelection {
 public:
  static constexpr std::int32_t kMostRules = 16;

  // For the current device, with `workspace_bytes` there for the sums of keys
  // and distances: slices that do not fit at once are worked on one after
  // another. An error names what the device lacks.
  static LaunchStatus Create(std::int64_t workspace_bytes,
                             std::unique_ptr<LastRowsSelection>* created);
  LastRowsSelection(const LastRowsSelection&) = delete;
  LastRowsSelection& operator=(const LastRowsSelection&) = delete;
  ~LastRowsSelection();

  // What a slice takes of the workspace with these arguments' heads,
  // most_blocks and kinds of rules. A FlexPrefillRule takes 4 most_blocks^2 for
  // the map of each KV head.
  std::int64_t BytesForSlice(const BlockSelectionArgs& args) const;

  // Queues launches, whose number and size follow from what is on the host, and
  // returns; may be captured in a CUDA graph. Other rules are refused. Writes
  // lists of pairs that have a rule, list_of and order. Where a sum is not
  // finite, the pairs of its slice and KV head visit everything. An error names
  // the argument that is out of range, or the workspace that one slice needs.
  // The same arguments give the same bits.
  LaunchStatus Run(const BlockSelectionArgs& args, CUstream_st* stream) const;

 private:
  LastRowsSelection(void* workspace, std::int64_t workspace_bytes,
                    int multiprocessors, int shared_bytes)
      : workspace_(workspace),
        workspace_bytes_(workspace_bytes),
        multiprocessors_(multiprocessors),
        shared_bytes_(shared_bytes) {}

  void* workspace_;
  std::int64_t workspace_bytes_;
  int multiprocessors_;
  int shared_bytes_;  // that a thread block may have
};

}  // namespace sparseserve::cuda
