#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "engine/kv/prefix_index.h"

namespace sparseserve {

// What a Scheduler is made with.
struct SchedulerOptions {
  // Rows (tokens) that one step may carry: max_running_sequences + 63, so
  // that a prompt's page-sized chunk always fits beside the decodes, to
  // 8,192.
  int max_step_tokens = 512;
  int max_running_sequences = 32;  // 1 to 1,024
  int context_tokens = 0;          // of the model; at least 2
  int kv_pages = 0;                // of the engine; at least 1
  // Whether prompts that begin alike share pages.
  bool keeps_prefixes = true;
  std::string model_name = {};  // pages are no other model's
  PrefixIndex::Options prefix_index = {};
  // What a step may take while answers are being written; above 0.
  absl::Duration step_time_target = absl::Milliseconds(100);
  // Of the steps' tokens, for what cannot be met while there is other work.
  double best_effort_share = 0.2;  // 0 to 1
  // Waiting so long makes a request more important by one; above 0.
  absl::Duration ageing_period = absl::Seconds(30);
  // Having waited so long, a prompt that may not be cut goes first.
  absl::Duration whole_prompt_patience = absl::Seconds(5);
};
// INVALID_ARGUMENT names the option, its value and its range.
absl::Status CheckSchedulerOptions(const SchedulerOptions& options);

}  // namespace sparseserve
