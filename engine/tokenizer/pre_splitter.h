#pragma once

#include <memory>
#include <string_view>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"

// PCRE2's compiled pattern, so that its header stays out of ours.
struct pcre2_real_code_8;

namespace sparseserve {

// Rules by which text is cut into words; tokens never cross words.
enum class PreSplit {
  // English contractions, letters, digits or other visible characters with at
  // most one space before them, and white space; the last white space of a run
  // goes with the word after it.
  kGpt2,
  // First every numeric character (\p{N}) apart, then GPT-2's rule on each
  // piece between.
  kSmolLm,
  // English contractions in any case, letters with at most one other character
  // before them that is no line end and no number, numbers of up to three
  // characters, other visible characters with at most one space before and
  // line ends behind, white space up to its last line end, and the rest of it
  // as in GPT-2's rule.
  kLlama3,
  // Llama 3's rule with every numeric character apart.
  kQwen2,
};

// Cuts text by one rule. Time is linear in the text's length. Immutable; any
// thread may call it. Categories are those of the Unicode version of the
// PCRE2 library in use.
class PreSplitter {
 public:
  explicit PreSplitter(PreSplit rule);
  ~PreSplitter();

  // Calls `emit` with each word in order, until it returns false; the words
  // together are `text`.
  // INTERNAL if the matcher reached a limit of its own, which it does for no
  // known text. REQUIRES: `text` is valid UTF-8.
  absl::Status Split(std::string_view text,
                     absl::FunctionRef<bool(std::string_view word)> emit) const;

 private:
  struct FreeCode {
    void operator()(pcre2_real_code_8* code) const;
  };
  std::unique_ptr<pcre2_real_code_8, FreeCode> code_;
};

}  // namespace sparseserve
