#include "client/load/prompt_source.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "client/load/seeded_draw.h"

namespace sparseserve {
namespace {

// A piece has at most one token for each byte, and servers answer at least
// 65,536 tokens.
constexpr size_t kPieceBytes = 32 << 10;
// Enough for offsets that differ; more only takes time to begin.
constexpr size_t kMaxTokens = 1 << 20;

// The end of a piece of `text`, which ends no character halfway.
size_t PieceEnd(absl::string_view text) {
  if (text.size() <= kPieceBytes) return text.size();
  size_t end = kPieceBytes;
  while (end > 1 && (static_cast<unsigned char>(text[end]) & 0xc0) == 0x80) {
    --end;
  }
  return end;
}

// What two texts that share nothing begin with alike.
absl::StatusOr<std::vector<int32_t>> LeadingTokens(
    PromptSource::Tokenize tokenize) {
  auto first = tokenize("a");
  if (!first.ok()) return first.status();
  auto second = tokenize("1");
  if (!second.ok()) return second.status();
  const auto [end, other] = std::mismatch(first->begin(), first->end(),
                                          second->begin(), second->end());
  return std::vector<int32_t>(first->begin(), end);
}

int64_t StrideFor(int64_t tokens) {
  // Near the golden ratio, so that neighbours in time lie far apart.
  auto stride =
      static_cast<int64_t>(static_cast<double>(tokens) * 0.6180339887);
  stride = std::max<int64_t>(stride, 1);
  while (std::gcd(stride, tokens) != 1) ++stride;
  return stride;
}

}  // namespace

PromptSource::PromptSource(std::vector<int32_t> leading,
                           std::vector<int32_t> tokens, Options options)
    : leading_(std::move(leading)),
      tokens_(std::move(tokens)),
      options_(options),
      stride_(StrideFor(static_cast<int64_t>(tokens_.size()))) {}

absl::StatusOr<PromptSource> PromptSource::Create(absl::string_view text,
                                                  Tokenize tokenize,
                                                  Options options) {
  auto leading = LeadingTokens(tokenize);
  if (!leading.ok()) return leading.status();
  std::vector<int32_t> tokens;
  while (!text.empty() && tokens.size() < kMaxTokens) {
    const size_t end = PieceEnd(text);
    auto piece = tokenize(text.substr(0, end));
    if (!piece.ok()) return piece.status();
    const size_t skipped = std::min(leading->size(), piece->size());
    tokens.insert(tokens.end(), piece->begin() + skipped, piece->end());
    text.remove_prefix(end);
  }
  const int64_t needed =
      int64_t{options.prefix_tokens} * std::max(options.prefixes, 0);
  const auto have = static_cast<int64_t>(tokens.size());
  if (have < 2 || have < needed) {
    return absl::InvalidArgumentError(absl::StrCat(
        "the text has ", have, " tokens, which is less than the ",
        std::max<int64_t>(needed, 2), " that ", options.prefixes,
        " shared prefixes of ", options.prefix_tokens, " tokens need"));
  }
  return PromptSource(*std::move(leading), std::move(tokens), options);
}

void PromptSource::Append(int64_t offset, int count,
                          std::vector<int32_t>& prompt) const {
  const auto size = static_cast<int64_t>(tokens_.size());
  for (offset %= size; count > 0; --count) {
    prompt.push_back(tokens_[offset]);
    if (++offset == size) offset = 0;
  }
}

std::vector<int32_t> PromptSource::Prompt(const PlannedRequest& request) const {
  std::vector<int32_t> prompt;
  prompt.reserve(request.prompt_tokens);
  const int leading =
      std::min(static_cast<int>(leading_.size()), request.prompt_tokens - 1);
  prompt.assign(leading_.begin(), leading_.begin() + leading);
  const int shared =
      std::min(options_.prefix_tokens, request.prompt_tokens - 1) - leading;
  Append(int64_t{request.prefix} * options_.prefix_tokens, shared, prompt);
  const auto size = static_cast<int64_t>(tokens_.size());
  const int64_t offset = (request.index % size) * stride_ % size;
  Append(offset, request.prompt_tokens - static_cast<int>(prompt.size()),
         prompt);
  return prompt;
}

std::string WordText(int64_t bytes, uint64_t seed) {
  constexpr absl::string_view kWords[] = {
      "river",  "stone",  "the",    "a",      "light",  "under",  "market",
      "letter", "seven",  "quiet",  "window", "of",     "and",    "carried",
      "north",  "garden", "before", "slowly", "engine", "paper",  "in",
      "bridge", "winter", "said",   "they",   "found",  "copper", "music",
      "was",    "long",   "table",  "over",   "field",  "answer", "to",
      "ship",   "green",  "nobody", "turned", "corner", "glass",  "with"};
  constexpr int64_t kCount = std::size(kWords);
  std::string text;
  for (int64_t i = 0; static_cast<int64_t>(text.size()) < bytes; ++i) {
    const double draw = SeededDraw(seed, DrawOf::kWord, i);
    absl::StrAppend(&text, kWords[static_cast<int64_t>(draw * kCount)],
                    i % 12 == 11 ? ".\n" : " ");
  }
  return text;
}

}  // namespace sparseserve
