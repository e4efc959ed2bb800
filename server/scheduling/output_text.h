#pragma once

#include <optional>
#include <string>

#include "absl/types/span.h"
#include "engine/step.h"
#include "engine/tokenizer/tokenizer.h"
#include "engine/tokenizer/utf8_decoder.h"
#include "server/scheduling/stop_matcher.h"

namespace sparseserve {

// The text of one sequence's output, piece by piece. Every piece is valid
// UTF-8; the pieces joined are the whole text. Special tokens are not shown.
// What may be the beginning of a stop string, or of a character, is held back
// until it is certain. Where tokens begin and end does not matter: the stop
// string that is complete first ends the text, which is cut before it; of
// several complete at the same byte the longest counts.
class OutputText {
 public:
  // Borrows both; no stop string is empty, each is valid UTF-8.
  OutputText(const Tokenizer& tokenizer,
             absl::Span<const std::string> stop_strings);

  // Adds `token` and returns the text that became certain. A stop string that
  // it completes ends the text if `may_stop`, else it is ordinary text.
  // REQUIRES: !stopped().
  std::string Append(TokenId token, bool may_stop);

  // The text that is still held back; bytes that never became a character are
  // U+FFFD. Nothing may be appended after it. REQUIRES: !stopped().
  std::string Flush();

  bool stopped() const { return matched_.has_value(); }
  // REQUIRES: stopped().
  const std::string& matched_stop_string() const;

 private:
  const Tokenizer& tokenizer_;
  const absl::Span<const std::string> stop_strings_;
  Utf8Decoder decoder_;
  StopMatcher matcher_;
  std::string held_;
  std::optional<size_t> matched_;
};

}  // namespace sparseserve
