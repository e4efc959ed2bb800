#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "client/load/request_plan.h"

namespace sparseserve {

// Prompts of exact lengths in tokens, cut from one text that the server's own
// tokenizer read. A prompt is: the tokens that begin every text, the shared
// prefix, and tokens that no other prompt of the run continues with at this
// place, until the text is used up. Immutable.
class PromptSource {
 public:
  struct Options {
    // Tokens that prompts share, leading ones included; 0 or more. A prompt
    // shares all but its last if it is no longer than that.
    int prefix_tokens = 0;
    // How many different ones there are; at least 1 if prefix_tokens is not 0.
    int prefixes = 0;
  };

  // Token ids of a text, as the server tells.
  using Tokenize = absl::FunctionRef<absl::StatusOr<std::vector<int32_t>>(
      absl::string_view text)>;

  // Tokenizes the first megabytes of `text` in pieces. INVALID_ARGUMENT if it
  // has too few tokens for the prefixes; the status of `tokenize` if that
  // fails.
  static absl::StatusOr<PromptSource> Create(absl::string_view text,
                                             Tokenize tokenize,
                                             Options options);

  // Exactly request.prompt_tokens ids.
  std::vector<int32_t> Prompt(const PlannedRequest& request) const;

  // Of the text, without leading ones.
  int64_t text_tokens() const { return static_cast<int64_t>(tokens_.size()); }

 private:
  PromptSource(std::vector<int32_t> leading, std::vector<int32_t> tokens,
               Options options);

  // Appends `count` tokens from `offset` on, from the beginning again after the
  // last.
  void Append(int64_t offset, int count, std::vector<int32_t>& prompt) const;

  // What the model puts before every text, such as a token that begins it.
  std::vector<int32_t> leading_;
  std::vector<int32_t> tokens_;
  Options options_;
  // Without a common divisor with the number of tokens: multiples of it reach
  // every offset once.
  int64_t stride_;
};

// Words in a seeded order, about `bytes` long: a text for runs without one.
std::string WordText(int64_t bytes, uint64_t seed);

}  // namespace sparseserve
