#include "server/scheduling/output_text.h"

#include <utility>

#include "engine/base/check.h"

namespace sparseserve {

OutputText::OutputText(const Tokenizer& tokenizer,
                       absl::Span<const std::string> stop_strings)
    : tokenizer_(tokenizer),
      stop_strings_(stop_strings),
      matcher_(stop_strings) {}

std::string OutputText::Append(TokenId token, bool may_stop) {
  SPARSESERVE_CHECK(!stopped());
  if (tokenizer_.IsSpecial(token)) return "";
  for (const char byte : decoder_.Push(tokenizer_.TokenBytes(token))) {
    held_.push_back(byte);
    const std::optional<size_t> match = matcher_.Feed(byte);
    if (match.has_value() && may_stop) {
      matched_ = match;
      held_.resize(held_.size() - matched_stop_string().size());
      return std::exchange(held_, "");
    }
  }
  // A stop string begins at a character's first byte, so does the cut.
  const size_t certain = held_.size() - matcher_.held();
  std::string piece = held_.substr(0, certain);
  held_.erase(0, certain);
  return piece;
}

std::string OutputText::Flush() {
  SPARSESERVE_CHECK(!stopped());
  held_ += decoder_.Flush();
  return std::exchange(held_, "");
}

const std::string& OutputText::matched_stop_string() const {
  SPARSESERVE_CHECK(stopped());
  return stop_strings_[*matched_];
}

}  // namespace sparseserve
