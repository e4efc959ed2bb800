#include "client/load/request_plan.h"

#include <algorithm>
#include <utility>

#include "client/load/seeded_draw.h"

namespace sparseserve {
namespace {

int DrawLength(LengthRange range, uint64_t seed, DrawOf what, int64_t index) {
  const int lengths = range.most - range.least + 1;
  return range.least +
         static_cast<int>(SeededDraw(seed, what, index) * lengths);
}

}  // namespace

RequestPlan::RequestPlan(Options options) : options_(std::move(options)) {
  double all = 0;
  for (const LoadClass& load_class : options_.classes) all += load_class.share;
  double end = 0;
  for (const LoadClass& load_class : options_.classes) {
    end += load_class.share / all;
    class_ends_.push_back(end);
  }
  class_ends_.back() = 1;
}

size_t RequestPlan::DrawClass(int64_t index) const {
  const double draw = SeededDraw(options_.seed, DrawOf::kClass, index);
  return std::upper_bound(class_ends_.begin(), class_ends_.end(), draw) -
         class_ends_.begin();
}

PlannedRequest RequestPlan::Plan(int64_t index, absl::Duration intended) const {
  const uint64_t seed = options_.seed;
  PlannedRequest request = {
      .index = index, .intended = intended, .load_class = DrawClass(index)};
  const LoadClass& asks = options_.classes[request.load_class];
  request.prompt_tokens =
      DrawLength(asks.prompt_tokens.value_or(options_.prompt_tokens), seed,
                 DrawOf::kPromptTokens, index);
  request.output_tokens =
      DrawLength(asks.output_tokens.value_or(options_.output_tokens), seed,
                 DrawOf::kOutputTokens, index);
  if (!options_.recorded.empty()) {
    const Lengths& recorded =
        options_
            .recorded[static_cast<size_t>(index) % options_.recorded.size()];
    if (!asks.prompt_tokens) request.prompt_tokens = recorded.prompt_tokens;
    if (!asks.output_tokens) request.output_tokens = recorded.output_tokens;
  }
  request.prefix = static_cast<int>(SeededDraw(seed, DrawOf::kPrefix, index) *
                                    options_.prefixes);
  if (SeededDraw(seed, DrawOf::kCancel, index) < options_.cancel_share) {
    request.cancel_after = options_.cancel_after;
  }
  return request;
}

}  // namespace sparseserve
