#include "tests/testing/byte_level_vocabulary.h"

#include <cstdint>

#include "engine/tokenizer/byte_alphabet.h"

namespace sparseserve::testing {

BpeVocabulary ByteLevelVocabulary(const std::vector<std::string>& merges) {
  BpeVocabulary vocabulary;
  for (int byte = 0; byte < 256; ++byte) {
    vocabulary.tokens.push_back(ByteToAlphabet(static_cast<uint8_t>(byte)));
  }
  vocabulary.kinds.assign(256, TokenKind::kNormal);
  for (const char* special : {"<|endoftext|>", "<|im_start|>", "<|im_end|>"}) {
    vocabulary.tokens.push_back(special);
    vocabulary.kinds.push_back(TokenKind::kControl);
  }
  vocabulary.end_tokens = {258};
  for (std::string merged : merges) {
    merged.erase(merged.find(' '), 1);
    vocabulary.tokens.push_back(merged);
    vocabulary.kinds.push_back(TokenKind::kNormal);
  }
  vocabulary.merges = merges;
  return vocabulary;
}

void AddVocabulary(const BpeVocabulary& vocabulary, GgufWriter& writer) {
  std::vector<int32_t> kinds;
  for (const TokenKind kind : vocabulary.kinds) {
    kinds.push_back(static_cast<int32_t>(kind));
  }
  const bool is_gpt2 = vocabulary.pre_split == PreSplit::kGpt2;
  writer.Add("tokenizer.ggml.model", std::string("gpt2"));
  writer.Add("tokenizer.ggml.pre", std::string(is_gpt2 ? "gpt-2" : "smollm"));
  writer.Add("tokenizer.ggml.tokens", vocabulary.tokens);
  writer.Add("tokenizer.ggml.token_type", kinds);
  writer.Add("tokenizer.ggml.merges", vocabulary.merges);
  if (!vocabulary.end_tokens.empty()) {
    writer.Add("tokenizer.ggml.eos_token_id",
               static_cast<uint32_t>(vocabulary.end_tokens[0]));
  }
}

}  // namespace sparseserve::testing
