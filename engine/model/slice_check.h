#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "engine/attention/attention_plan.h"
#include "engine/layout/selection_rule.h"
#include "engine/pattern/pattern_map.h"
#include "engine/step.h"

namespace sparseserve {

// What a step may ask for.
struct StepLimits {
  int32_t max_slices = 0;
  int32_t max_rows = 0;
  int32_t vocab_size = 0;
  int32_t context_tokens = 0;
  int32_t kv_pages = 0;
  PatternMap::Shape attention;  // what a pattern map must be for
  // layers * heads, values of a row's recall; 0: recall cannot be measured.
  int64_t recall_width = 0;
  // What the device can do, as DeviceInfo says.
  SelectionRuleKinds selection_rules = SelectionRuleKinds::All();
  bool selects_for_output_chunks = true;
  bool corrects = true;
  bool prunes_heads = false;  // some heads are not computed, so none profiled
};

// INVALID_ARGUMENT if the plan as a whole is too large for one pass, or copies
// other than pages.
absl::Status CheckPlan(const StepPlan& plan, const StepLimits& limits);

// INVALID_ARGUMENT names what is wrong with one slice, UNIMPLEMENTED what it
// asks for that the device cannot do. A slice that passes can
// run without touching memory that is not its own.
absl::Status CheckSlice(const StepSlice& slice, const StepLimits& limits);

// True if no page that one slice writes is in another's page table or twice in
// its own: anything else is a fault of the page bookkeeping.
bool WritesAreExclusive(absl::Span<const PlannedSlice> slices);

}  // namespace sparseserve
