#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "absl/time/time.h"
#include "absl/types/span.h"
#include "client/load/load_class.h"

namespace sparseserve {

// One request of a run, before it is sent.
struct PlannedRequest {
  int64_t index = 0;
  // When it is meant to be sent; all its latencies count from here.
  absl::Duration intended;
  size_t load_class = 0;
  int prompt_tokens = 0;
  int output_tokens = 0;
  // Which of the shared prefixes its prompt begins with, if there are any.
  int prefix = 0;
  // Since `intended`; infinite if the client does not cancel it.
  absl::Duration cancel_after = absl::InfiniteDuration();
};

// Says what each request of a run asks for: the same for the same seed,
// whenever it is asked. Immutable.
class RequestPlan {
 public:
  struct Lengths {
    int prompt_tokens = 0;
    int output_tokens = 0;
  };
  struct Options {
    // At least one.
    std::vector<LoadClass> classes;
    LengthRange prompt_tokens = {.least = 256, .most = 256};
    LengthRange output_tokens = {.least = 64, .most = 64};
    // Lengths in turn, instead of the ranges: a trace's, over and over.
    std::vector<Lengths> recorded;
    // Shared prefixes to draw from; 0 or more.
    int prefixes = 0;
    // Of the requests, that the client cancels: 0 to 1.
    double cancel_share = 0;
    absl::Duration cancel_after = absl::InfiniteDuration();
    uint64_t seed = 0;
  };

  explicit RequestPlan(Options options);

  PlannedRequest Plan(int64_t index, absl::Duration intended) const;

  absl::Span<const LoadClass> classes() const { return options_.classes; }

 private:
  size_t DrawClass(int64_t index) const;

  Options options_;
  // Upper ends of the classes' shares, the last of them 1.
  std::vector<double> class_ends_;
};

}  // namespace sparseserve
