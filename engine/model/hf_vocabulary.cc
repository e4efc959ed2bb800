#include "engine/model/hf_vocabulary.h"

#include <algorithm>
#include <cstdint>
#include <limits>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "engine/base/quoted.h"
#include "engine/base/status_macros.h"
#include "engine/base/str_cat.h"
#include "engine/model/json_document.h"

namespace sparseserve {
namespace {

using nlohmann::json;

constexpr std::string_view kModel = "tokenizer.json: model";
constexpr std::string_view kAdded = "tokenizer.json: added_tokens";
constexpr size_t kMaxTokens = std::numeric_limits<int32_t>::max();

// The member, which must be there.
absl::StatusOr<const json*> Member(const json& object, const char* key,
                                   std::string_view path) {
  const json* value = FindMember(object, key);
  if (value != nullptr) return value;
  return absl::InvalidArgumentError(StrCat(path, ".", key, " is missing"));
}

absl::Status CheckModel(const json& model) {
  if (const json* type = FindMember(model, "type");
      type != nullptr && *type != "BPE") {
    return absl::InvalidArgumentError(
        StrCat(kModel, ".type is ", ShownJson(*type), "; known is \"BPE\""));
  }
  return CheckSettings(model, kModel,
                       {{"dropout", {nullptr, 0.0}},
                        {"unk_token", {}},
                        {"continuing_subword_prefix", {nullptr, ""}},
                        {"end_of_word_suffix", {nullptr, ""}},
                        {"fuse_unk", {}},
                        {"byte_fallback", {}},
                        {"ignore_merges", {}},
                        {"vocab", {}},
                        {"merges", {}}});
}

// One entry of added_tokens.
struct AddedToken {
  std::string content;
  int64_t id = 0;
  bool special = false;
};

absl::StatusOr<AddedToken> ReadAddedToken(const json& entry,
                                          const std::string& path,
                                          bool has_normalizer) {
  RETURN_IF_ERROR(CheckSettings(entry, path,
                                {{"id", {}},
                                 {"content", {}},
                                 {"special", {}},
                                 {"normalized", {}},
                                 {"single_word", {false}},
                                 {"lstrip", {false}},
                                 {"rstrip", {false}}}));
  AddedToken token;
  ASSIGN_OR_RETURN(const json* content, Member(entry, "content", path));
  ASSIGN_OR_RETURN(token.content,
                   JsonString(*content, StrCat(path, ".content")));
  ASSIGN_OR_RETURN(const json* id, Member(entry, "id", path));
  ASSIGN_OR_RETURN(token.id,
                   JsonInteger(*id, StrCat(path, ".id"), 0, kMaxTokens - 1));
  ASSIGN_OR_RETURN(token.special, JsonBoolMember(entry, "special", path,
                                                 /*otherwise=*/false));
  ASSIGN_OR_RETURN(const bool normalized,
                   JsonBoolMember(entry, "normalized", path,
                                  /*otherwise=*/!token.special));
  if (normalized && has_normalizer) {
    return absl::InvalidArgumentError(
        StrCat(path,
               ".normalized is true, which is supported only where there "
               "is no normalizer"));
  }
  return token;
}

absl::StatusOr<std::vector<AddedToken>> ReadAddedTokens(const json& tokenizer) {
  std::vector<AddedToken> tokens;
  const json* entries = FindMember(tokenizer, "added_tokens");
  if (entries == nullptr) return tokens;
  RETURN_IF_ERROR(CheckJsonArray(*entries, kAdded));
  const bool has_normalizer = FindMember(tokenizer, "normalizer") != nullptr;
  for (size_t i = 0; i < entries->size(); ++i) {
    ASSIGN_OR_RETURN(AddedToken token,
                     ReadAddedToken((*entries)[i], StrCat(kAdded, "[", i, "]"),
                                    has_normalizer));
    tokens.push_back(std::move(token));
  }
  return tokens;
}

// Sizes the vocabulary for ids up to the greatest, all unused.
absl::Status Size(const json& vocab, const std::vector<AddedToken>& added,
                  size_t least_tokens, HfVocabulary& vocabulary) {
  const std::string path = StrCat(kModel, ".vocab");
  RETURN_IF_ERROR(CheckJsonObject(vocab, path));
  size_t size = least_tokens;
  for (const auto& [text, id] : vocab.items()) {
    ASSIGN_OR_RETURN(
        const int64_t number,
        JsonInteger(id, StrCat(path, " of ", Quoted(text)), 0, kMaxTokens - 1));
    size = std::max(size, static_cast<size_t>(number) + 1);
  }
  for (const AddedToken& token : added) {
    size = std::max(size, static_cast<size_t>(token.id) + 1);
  }
  const size_t named = vocab.size() + added.size();
  if (size > named + HfVocabulary::kMaxUnused) {
    return absl::InvalidArgumentError(StrCat(
        "tokenizer.json names ", named, " tokens for ids up to ", size - 1,
        "; at most ", HfVocabulary::kMaxUnused, " may be left out"));
  }
  vocabulary.tokens.resize(size);
  vocabulary.kinds.resize(size, TokenKind::kUnused);
  return absl::OkStatus();
}

absl::Status Set(size_t id, std::string text, TokenKind kind,
                 HfVocabulary& vocabulary) {
  if (text.empty()) {
    return absl::InvalidArgumentError(
        StrCat("tokenizer.json: token ", id, " is empty"));
  }
  if (!vocabulary.tokens[id].empty() && vocabulary.tokens[id] != text) {
    return absl::InvalidArgumentError(
        StrCat("tokenizer.json gives the id ", id, " to ",
               Quoted(vocabulary.tokens[id]), " and to ", Quoted(text)));
  }
  vocabulary.tokens[id] = std::move(text);
  vocabulary.kinds[id] = kind;
  return absl::OkStatus();
}

absl::Status ReadTokens(const json& tokenizer, const json& model,
                        size_t least_tokens, HfVocabulary& vocabulary) {
  ASSIGN_OR_RETURN(const json* vocab, Member(model, "vocab", kModel));
  ASSIGN_OR_RETURN(const std::vector<AddedToken> added,
                   ReadAddedTokens(tokenizer));
  RETURN_IF_ERROR(Size(*vocab, added, least_tokens, vocabulary));
  for (const auto& [text, id] : vocab->items()) {
    RETURN_IF_ERROR(
        Set(id.get<size_t>(), text, TokenKind::kNormal, vocabulary));
  }
  for (const AddedToken& token : added) {
    const TokenKind kind =
        token.special ? TokenKind::kControl : TokenKind::kUserDefined;
    RETURN_IF_ERROR(
        Set(static_cast<size_t>(token.id), token.content, kind, vocabulary));
  }
  return absl::OkStatus();
}

// "left right", or ["left", "right"].
absl::StatusOr<std::string> ReadMerge(const json& merge,
                                      const std::string& path) {
  if (!merge.is_array()) return JsonString(merge, path);
  if (merge.size() != 2) {
    return absl::InvalidArgumentError(
        StrCat(path, " has ", merge.size(), " parts, not 2"));
  }
  ASSIGN_OR_RETURN(const std::string left, JsonString(merge[0], path));
  ASSIGN_OR_RETURN(const std::string right, JsonString(merge[1], path));
  return StrCat(left, " ", right);
}

absl::Status ReadMerges(const json& model, HfVocabulary& vocabulary) {
  ASSIGN_OR_RETURN(const json* merges, Member(model, "merges", kModel));
  const std::string path = StrCat(kModel, ".merges");
  RETURN_IF_ERROR(CheckJsonArray(*merges, path));
  vocabulary.merges.reserve(merges->size());
  for (size_t i = 0; i < merges->size(); ++i) {
    ASSIGN_OR_RETURN(std::string merge,
                     ReadMerge((*merges)[i], StrCat(path, "[", i, "]")));
    vocabulary.merges.push_back(std::move(merge));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<HfVocabulary> ReadHfVocabulary(const json& tokenizer,
                                              size_t least_tokens) {
  ASSIGN_OR_RETURN(const json* model,
                   Member(tokenizer, "model", "tokenizer.json"));
  RETURN_IF_ERROR(CheckModel(*model));
  HfVocabulary vocabulary;
  RETURN_IF_ERROR(ReadTokens(tokenizer, *model, least_tokens, vocabulary));
  RETURN_IF_ERROR(ReadMerges(*model, vocabulary));
  ASSIGN_OR_RETURN(vocabulary.ignore_merges,
                   JsonBoolMember(*model, "ignore_merges", kModel,
                                  /*otherwise=*/false));
  ASSIGN_OR_RETURN(vocabulary.byte_fallback,
                   JsonBoolMember(*model, "byte_fallback", kModel,
                                  /*otherwise=*/false));
  return vocabulary;
}

}  // namespace sparseserve
