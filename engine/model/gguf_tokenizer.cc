#include "engine/model/gguf_tokenizer.h"

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "engine/base/quoted.h"
#include "engine/base/status_macros.h"
#include "engine/base/str_cat.h"
#include "engine/model/gguf_vocabulary.h"
#include "engine/tokenizer/bpe_tokenizer.h"
#include "engine/tokenizer/pre_splitter.h"
#include "engine/tokenizer/recognize_template.h"
#include "engine/tokenizer/sentence_piece_tokenizer.h"

namespace sparseserve {
namespace {

constexpr std::string_view kModelKey = "tokenizer.ggml.model";
constexpr std::string_view kPreKey = "tokenizer.ggml.pre";
constexpr std::string_view kMergesKey = "tokenizer.ggml.merges";
constexpr std::string_view kScoresKey = "tokenizer.ggml.scores";
constexpr std::string_view kAddSpaceKey = "tokenizer.ggml.add_space_prefix";
constexpr std::string_view kChatTemplateKey = "tokenizer.chat_template";

// The names that converters write for a model's pre-splitting rule. "default"
// is no rule that we know: it also splits off punctuation and threes of digits.
constexpr std::pair<std::string_view, PreSplit> kPreSplits[] = {
    {"gpt-2", PreSplit::kGpt2},       {"gpt2", PreSplit::kGpt2},
    {"phi-2", PreSplit::kGpt2},       {"roberta-bpe", PreSplit::kGpt2},
    {"smollm", PreSplit::kSmolLm},    {"starcoder", PreSplit::kSmolLm},
    {"refact", PreSplit::kSmolLm},    {"codeshell", PreSplit::kSmolLm},
    {"llama-bpe", PreSplit::kLlama3}, {"llama3", PreSplit::kLlama3},
    {"llama-v3", PreSplit::kLlama3},  {"qwen2", PreSplit::kQwen2}};

absl::StatusOr<PreSplit> ReadPreSplit(const GgufMetadata& metadata) {
  // Files older than the key are GPT-2's.
  if (!metadata.Has(kPreKey)) return PreSplit::kGpt2;
  ASSIGN_OR_RETURN(const std::string_view wanted, metadata.GetString(kPreKey));
  std::string known;
  for (const auto& [name, rule] : kPreSplits) {
    if (name == wanted) return rule;
    known += StrCat(known.empty() ? "" : ", ", name);
  }
  return absl::InvalidArgumentError(
      StrCat(kPreKey, " is ", Quoted(wanted), "; known are ", known));
}

absl::StatusOr<std::unique_ptr<Tokenizer>> LoadByteLevel(
    const GgufMetadata& metadata) {
  ASSIGN_OR_RETURN(const bool adds_space,
                   ReadGgufFlag(metadata, kAddSpaceKey, /*otherwise=*/false));
  if (adds_space) {
    return absl::InvalidArgumentError(
        StrCat(kAddSpaceKey, " is true; only false is supported where ",
               kModelKey, " is \"gpt2\""));
  }
  BpeVocabulary vocabulary;
  ASSIGN_OR_RETURN(vocabulary.pre_split, ReadPreSplit(metadata));
  const bool is_llama3 = vocabulary.pre_split == PreSplit::kLlama3;
  // Files of Llama 3 may leave the key out.
  RETURN_IF_ERROR(ReadGgufVocabulary(metadata, /*begins_by_default=*/is_llama3,
                                     vocabulary));
  ASSIGN_OR_RETURN(const std::vector<std::string_view> merges,
                   metadata.GetStringArray(kMergesKey));
  vocabulary.merges.assign(merges.begin(), merges.end());
  // Files do not say these; the models with the rule are trained so.
  vocabulary.ignore_merges = is_llama3;
  vocabulary.normalizes_nfc = vocabulary.pre_split == PreSplit::kQwen2;
  return BpeTokenizer::Create(vocabulary);
}

absl::StatusOr<std::unique_ptr<Tokenizer>> LoadSentencePiece(
    const GgufMetadata& metadata) {
  SentencePieceVocabulary vocabulary;
  RETURN_IF_ERROR(
      ReadGgufVocabulary(metadata, /*begins_by_default=*/true, vocabulary));
  ASSIGN_OR_RETURN(vocabulary.scores, metadata.GetFloatArray(kScoresKey));
  if (vocabulary.scores.size() != vocabulary.tokens.size()) {
    return absl::InvalidArgumentError(
        StrCat(kScoresKey, " has ", vocabulary.scores.size(),
               " elements, but the vocabulary has ", vocabulary.tokens.size(),
               " tokens"));
  }
  ASSIGN_OR_RETURN(const bool adds_space,
                   ReadGgufFlag(metadata, kAddSpaceKey, /*otherwise=*/true));
  // User-defined tokens are found in text that has its spaces yet.
  for (size_t id = 0; id < vocabulary.tokens.size(); ++id) {
    if (vocabulary.kinds[id] != TokenKind::kUserDefined) continue;
    vocabulary.tokens[id] =
        SentencePieceTokenizer::MarksToSpaces(vocabulary.tokens[id]);
  }
  if (adds_space) {
    vocabulary.prefix.where = SpacePrefix::Where::kAfterAddedTokens;
  }
  vocabulary.drops_first_space = adds_space;
  return SentencePieceTokenizer::Create(vocabulary);
}

}  // namespace

absl::StatusOr<std::unique_ptr<Tokenizer>> LoadTokenizer(
    const GgufMetadata& metadata) {
  ASSIGN_OR_RETURN(const std::string_view model, metadata.GetString(kModelKey));
  if (model == "gpt2") return LoadByteLevel(metadata);
  if (model == "llama") return LoadSentencePiece(metadata);
  return absl::InvalidArgumentError(StrCat(kModelKey, " is ", Quoted(model),
                                           "; known are \"gpt2\" and "
                                           "\"llama\""));
}

absl::StatusOr<std::unique_ptr<ChatTemplate>> LoadChatTemplate(
    const GgufMetadata& metadata) {
  if (!metadata.Has(kChatTemplateKey)) return nullptr;
  ASSIGN_OR_RETURN(const std::string_view source,
                   metadata.GetString(kChatTemplateKey));
  return RecognizeChatTemplate(source);
}

}  // namespace sparseserve
