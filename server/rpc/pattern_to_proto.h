#pragma once

#include "engine/pattern/pattern_map.h"
#include "engine/pattern/pattern_spec.h"
#include "sparseserve/v1/attention_pattern.pb.h"

namespace sparseserve {

// What ConvertPattern() and ConvertMap() read, with all parameters. Pure; any
// thread.

v1::AttentionPattern ToProto(const PatternSpec& pattern);

// Heads that see every key have no rule; if that are all, one that says so.
v1::PatternMap ToProto(const PatternMap& map);

}  // namespace sparseserve
