#include "server/calibration/corpus.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <numeric>
#include <random>
#include <system_error>
#include <utility>

#include "engine/base/sha256.h"
#include "engine/base/status_macros.h"
#include "engine/base/str_cat.h"

namespace sparseserve {
namespace {

constexpr uintmax_t kMaxFileBytes = uintmax_t{64} << 20;

// Of a text of so many tokens: what the longest band takes that it reaches; 0
// if it reaches none.
size_t UsableTokens(const std::vector<LengthBand>& bands, size_t tokens) {
  size_t usable = 0;
  for (const LengthBand& band : bands) {
    const auto end = static_cast<size_t>(band.max_tokens());
    if (end <= tokens) usable = end;
  }
  return usable;
}

absl::StatusOr<std::vector<CorpusText>> CutFile(
    const TextFile& file, const Tokenizer& tokenizer,
    const Corpus::Options& options) {
  const absl::StatusOr<std::vector<TokenId>> encoded =
      tokenizer.Encode(file.text, /*parse_special=*/false);
  if (!encoded.ok()) {
    return absl::InvalidArgumentError(
        StrCat(file.name, ": ", encoded.status().message()));
  }
  const std::vector<TokenId>& tokens = *encoded;
  const size_t usable = UsableTokens(options.bands, tokens.size());
  std::vector<CorpusText> texts;
  if (usable == 0) return texts;
  const size_t count = std::min<size_t>(std::max(options.texts_per_file, 1),
                                        tokens.size() / usable);
  for (size_t i = 0; i < count; ++i) {
    const auto begin = tokens.begin() +
                       static_cast<std::ptrdiff_t>(i * (tokens.size() / count));
    texts.push_back({StrCat(file.name, "#", i),
                     {begin, begin + static_cast<std::ptrdiff_t>(usable)}});
    // As a prompt has it, in the place of the text's last token.
    if (tokenizer.prompts_begin() && tokenizer.begin_token().has_value()) {
      std::vector<TokenId>& own = texts.back().tokens;
      own.insert(own.begin(), *tokenizer.begin_token());
      own.pop_back();
    }
  }
  return texts;
}

// Fisher and Yates; std::shuffle is not the same in all standard libraries.
std::vector<size_t> ShuffledOrder(size_t count, uint64_t seed) {
  std::vector<size_t> order(count);
  std::iota(order.begin(), order.end(), 0);
  std::mt19937_64 random(seed);
  for (size_t i = count; i > 1; --i) {
    std::swap(order[i - 1], order[random() % i]);
  }
  return order;
}

// The first texts of all files, then the second ones and so on.
std::vector<CorpusText> TakeInTurns(
    std::vector<std::vector<CorpusText>>& files) {
  std::vector<CorpusText> texts;
  bool found = true;
  for (size_t turn = 0; found; ++turn) {
    found = false;
    for (std::vector<CorpusText>& file : files) {
      if (turn >= file.size()) continue;
      texts.push_back(std::move(file[turn]));
      found = true;
    }
  }
  return texts;
}

int64_t TokensOf(const std::vector<CorpusText>& texts) {
  int64_t tokens = 0;
  for (const CorpusText& text : texts) {
    tokens += static_cast<int64_t>(text.tokens.size());
  }
  return tokens;
}

}  // namespace

absl::StatusOr<std::string> ReadTextFile(const std::string& path) {
  std::error_code error;
  if (!std::filesystem::exists(path, error)) {
    return absl::NotFoundError(StrCat("there is no file ", path));
  }
  if (!std::filesystem::is_regular_file(path, error)) {
    return absl::InvalidArgumentError(StrCat(path, " is not a regular file"));
  }
  const uintmax_t bytes = std::filesystem::file_size(path, error);
  if (!error && bytes > kMaxFileBytes) {
    return absl::InvalidArgumentError(StrCat(
        path, " has ", bytes, " bytes, must have at most ", kMaxFileBytes));
  }
  std::ifstream file(path, std::ios::binary);
  if (!file) return absl::NotFoundError(StrCat("cannot read ", path));
  return std::string(std::istreambuf_iterator<char>(file), {});
}

absl::StatusOr<Corpus> BuildCorpus(const std::vector<TextFile>& files,
                                   const Tokenizer& tokenizer,
                                   const Corpus::Options& options) {
  Sha256 digest;
  std::vector<std::vector<CorpusText>> cut;
  for (const TextFile& file : files) {
    digest.Add({reinterpret_cast<const std::byte*>(file.text.data()),
                file.text.size()});
    ASSIGN_OR_RETURN(std::vector<CorpusText> texts,
                     CutFile(file, tokenizer, options));
    if (!texts.empty()) cut.push_back(std::move(texts));
  }
  if (cut.size() < 2) {
    return absl::InvalidArgumentError(
        StrCat(cut.size(), " of ", files.size(), " files have ",
               options.bands.front().max_tokens(),
               " tokens or more, must be 2 or more: one half is held out"));
  }
  const auto held_out = static_cast<size_t>(std::clamp<double>(
      std::round(options.held_out_share * static_cast<double>(cut.size())), 1,
      static_cast<double>(cut.size() - 1)));
  const std::vector<size_t> order = ShuffledOrder(cut.size(), options.seed);
  std::vector<std::vector<CorpusText>> halves[2];
  for (size_t i = 0; i < order.size(); ++i) {
    halves[i < held_out ? 1 : 0].push_back(std::move(cut[order[i]]));
  }
  Corpus corpus;
  corpus.calibration = TakeInTurns(halves[0]);
  corpus.held_out = TakeInTurns(halves[1]);
  corpus.sha256 = digest.Finish();
  corpus.held_out_tokens = TokensOf(corpus.held_out);
  corpus.tokens = TokensOf(corpus.calibration) + corpus.held_out_tokens;
  return corpus;
}

}  // namespace sparseserve
