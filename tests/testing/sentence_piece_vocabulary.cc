#include "tests/testing/sentence_piece_vocabulary.h"

#include <cstdint>
#include <cstdio>

namespace sparseserve::testing {

SentencePieceVocabulary SentencePieceVocabularyOf(
    const std::vector<std::string>& tokens) {
  SentencePieceVocabulary vocabulary;
  for (int byte = 0; byte < 256; ++byte) {
    char text[8];
    std::snprintf(text, sizeof(text), "<0x%02X>", byte);
    vocabulary.tokens.emplace_back(text);
    vocabulary.kinds.push_back(TokenKind::kByte);
  }
  vocabulary.tokens.emplace_back("<s>");
  vocabulary.kinds.push_back(TokenKind::kControl);
  vocabulary.tokens.emplace_back("\u2581");
  vocabulary.tokens.insert(vocabulary.tokens.end(), tokens.begin(),
                           tokens.end());
  vocabulary.kinds.resize(vocabulary.tokens.size(), TokenKind::kNormal);
  for (size_t id = 0; id < vocabulary.tokens.size(); ++id) {
    vocabulary.scores.push_back(-static_cast<float>(id));
  }
  return vocabulary;
}

void AddVocabulary(const SentencePieceVocabulary& vocabulary,
                   GgufWriter& writer) {
  std::vector<int32_t> kinds;
  for (const TokenKind kind : vocabulary.kinds) {
    kinds.push_back(static_cast<int32_t>(kind));
  }
  writer.Add("tokenizer.ggml.model", std::string("llama"));
  writer.Add("tokenizer.ggml.tokens", vocabulary.tokens);
  writer.Add("tokenizer.ggml.token_type", kinds);
  writer.Add("tokenizer.ggml.scores", vocabulary.scores);
  writer.Add("tokenizer.ggml.bos_token_id", uint32_t{256});
}

}  // namespace sparseserve::testing
