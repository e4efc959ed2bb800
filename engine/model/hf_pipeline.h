#pragma once

#include "absl/status/statusor.h"
#include "engine/tokenizer/pre_splitter.h"
#include "engine/tokenizer/sentence_piece_tokenizer.h"
#include "nlohmann/json.hpp"

namespace sparseserve {

// What a tokenizer.json does to text before its merges, and after decoding.
struct HfPipeline {
  // Else SentencePiece's.
  bool is_byte_level = true;

  // Byte-level.
  PreSplit pre_split = PreSplit::kGpt2;
  bool normalizes_nfc = false;

  // SentencePiece's.
  SpacePrefix prefix;
  bool drops_first_space = false;
};

// Recognises the document's normalizer, pre_tokenizer and decoder.
// INVALID_ARGUMENT names the step or setting that is not a known one: none is
// ever left out.
absl::StatusOr<HfPipeline> ReadHfPipeline(const nlohmann::json& tokenizer);

}  // namespace sparseserve
