#pragma once

#include <cstdint>
#include <vector>

#include "tests/testing/rule_attention.h"

namespace sparseserve::testing {

// A key and which row of the table of labels its pair with the query has.
struct LabelledKey {
  int64_t key = 0;
  int64_t label = 0;
  friend bool operator==(const LabelledKey&, const LabelledKey&) = default;
};

// Ainslie et al. 2020, arXiv 2004.08483, as released: a long and a global
// sequence, four pieces of attention. A row's two pieces share one softmax.
struct EtcRule {
  int64_t radius = 1;        // of long rows among themselves
  int64_t max_distance = 1;  // labels: 0, then to the right, then to the left
  // [long]: equal for the tokens of a segment; others are not seen.
  std::vector<int64_t> segments;
  int64_t global_tokens = 0;
  // [long][global], [global][long]: the label of what is seen, -1 of what not.
  std::vector<std::vector<int64_t>> long_to_global, global_to_long;

  std::vector<LabelledKey> LongToLong(int64_t row) const;
  std::vector<LabelledKey> LongToGlobal(int64_t row) const;
  std::vector<LabelledKey> GlobalToGlobal(int64_t row) const;
  std::vector<LabelledKey> GlobalToLong(int64_t row) const;
};

// What long rows share, or global rows.
struct EtcLabels {
  Rows keys;                   // [labels, head size]
  std::vector<double> biases;  // [labels]
};

struct EtcPiece {
  const Rows& keys;
  const Rows& values;
  std::vector<LabelledKey> seen;
};

// Scores are (query * (key + label's key) + label's bias) / sqrt(head size).
AttendedRow AttendEtcRow(absl::Span<const double> query,
                         absl::Span<const EtcPiece> pieces,
                         const EtcLabels& labels);

}  // namespace sparseserve::testing
