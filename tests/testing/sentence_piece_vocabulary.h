#pragma once

#include <string>
#include <vector>

#include "engine/tokenizer/sentence_piece_tokenizer.h"
#include "tests/testing/gguf_writer.h"

namespace sparseserve::testing {

// A vocabulary small enough to follow by hand: token b < 256 is the byte b, 256
// is the special <s>, 257 the mark of a space; `tokens` follow, each with a
// lower score than the one before.
SentencePieceVocabulary SentencePieceVocabularyOf(
    const std::vector<std::string>& tokens);

// Writes the vocabulary under the tokenizer.ggml keys, <s> as what texts begin
// with.
void AddVocabulary(const SentencePieceVocabulary& vocabulary,
                   GgufWriter& writer);

}  // namespace sparseserve::testing
