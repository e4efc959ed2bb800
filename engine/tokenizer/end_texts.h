#pragma once

#include <algorithm>
#include <array>
#include <string_view>

namespace sparseserve {

// Whether a special token with this text ends a text or a turn by its meaning,
// whether or not a model file says so.
inline bool IsEndText(std::string_view text) {
  constexpr std::array<std::string_view, 5> kEndTexts = {
      "<|im_end|>", "<|endoftext|>", "<|end_of_text|>", "<|eot_id|>",
      "<|end|>"};
  return std::find(kEndTexts.begin(), kEndTexts.end(), text) != kEndTexts.end();
}

}  // namespace sparseserve
