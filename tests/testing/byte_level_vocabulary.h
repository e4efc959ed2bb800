#pragma once

#include <string>
#include <vector>

#include "engine/tokenizer/bpe_tokenizer.h"
#include "tests/testing/gguf_writer.h"

namespace sparseserve::testing {

// A vocabulary small enough to follow by hand: token b < 256 is the byte b,
// 256 is <|endoftext|>, 257 <|im_start|>, 258 <|im_end|>, which ends a
// generation, and from 259 on the results of `merges` ("left right", in the
// byte alphabet) in order.
BpeVocabulary ByteLevelVocabulary(const std::vector<std::string>& merges);

// Writes the vocabulary under the tokenizer.ggml keys.
void AddVocabulary(const BpeVocabulary& vocabulary, GgufWriter& writer);

}  // namespace sparseserve::testing
