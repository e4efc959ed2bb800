#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "engine/layout/attention_passes.h"
#include "tests/testing/rule_attention.h"

namespace sparseserve::testing {

// What one query slot of a pass sees, read key by key from its layout: by
// token, each with the number of its slots.
struct SlotKeys {
  int64_t token = 0;
  VisibleKeys keys;
};

// Every query slot of a head that holds a token, in the order of the passes and
// of their slots; of a slot that no tile has the keys are empty.
std::vector<SlotKeys> KeysOf(const AttentionPasses& passes, int32_t head);

// Empty if both have the same keys and each key the same weight for the same
// score, log(count) + bias, up to `tolerance`; else what differs.
std::string Difference(const VisibleKeys& found, const VisibleKeys& wanted,
                       double tolerance = 1e-6);

// Empty if in a head every real token has one slot, and sees there what the
// rule says of its row, and no other token has any; else the first difference.
std::string DifferenceFromRule(
    const AttentionPasses& passes, int32_t head, const std::vector<bool>& real,
    const std::function<VisibleKeys(int64_t row)>& rule);

}  // namespace sparseserve::testing
