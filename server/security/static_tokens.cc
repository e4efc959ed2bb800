#include "server/security/static_tokens.h"

#include <openssl/crypto.h>
#include <openssl/sha.h>

#include <algorithm>
#include <utility>

#include "engine/base/str_cat.h"

namespace sparseserve {
namespace {

constexpr std::string_view kBlanks = " \t\r";
constexpr size_t kMostSubjectBytes = 256;

// The next word of `line`, which loses it; empty at the end.
std::string_view TakeWord(std::string_view& line) {
  const size_t begin = line.find_first_not_of(kBlanks);
  if (begin == line.npos) return {};
  line.remove_prefix(begin);
  const size_t end = std::min(line.find_first_of(kBlanks), line.size());
  const std::string_view word = line.substr(0, end);
  line.remove_prefix(end);
  return word;
}

bool IsPrintable(std::string_view text) {
  return std::all_of(text.begin(), text.end(),
                     [](unsigned char c) { return c > 0x20 && c < 0x7F; });
}

}  // namespace

absl::StatusOr<StaticTokens> StaticTokens::Parse(std::string_view text) {
  StaticTokens tokens;
  for (int number = 1; !text.empty(); ++number) {
    const size_t end = std::min(text.find('\n'), text.size());
    std::string_view line = text.substr(0, end);
    text.remove_prefix(std::min(end + 1, text.size()));
    const std::string_view subject = TakeWord(line);
    if (subject.empty() || subject.front() == '#') continue;
    const std::string_view token = TakeWord(line);
    const auto wrong = [number](const std::string& what) {
      return absl::InvalidArgumentError(StrCat("line ", number, ": ", what));
    };
    if (token.empty() || !TakeWord(line).empty()) {
      return wrong("must be a subject and a token with a blank between");
    }
    if (subject.size() > kMostSubjectBytes || !IsPrintable(subject)) {
      return wrong(StrCat("the subject must be 1 to ", kMostSubjectBytes,
                          " printable ASCII characters"));
    }
    if (token.size() < kLeastTokenBytes || token.size() > kMostTokenBytes ||
        !IsPrintable(token)) {
      return wrong(StrCat("the token has ", token.size(), " bytes, must be ",
                          kLeastTokenBytes, " to ", kMostTokenBytes,
                          " printable ASCII characters"));
    }
    if (tokens.entries_.size() == kMostTokens) {
      return wrong(StrCat("more than ", kMostTokens, " tokens"));
    }
    Entry entry;
    entry.subject = std::string(subject);
    SHA256(reinterpret_cast<const uint8_t*>(token.data()), token.size(),
           entry.digest.data());
    tokens.entries_.push_back(std::move(entry));
  }
  std::vector<Digest> digests;
  for (const Entry& entry : tokens.entries_) digests.push_back(entry.digest);
  std::sort(digests.begin(), digests.end());
  if (std::adjacent_find(digests.begin(), digests.end()) != digests.end()) {
    return absl::InvalidArgumentError("two lines have the same token");
  }
  return tokens;
}

std::optional<std::string> StaticTokens::SubjectOf(
    std::string_view token) const {
  if (token.size() < kLeastTokenBytes || token.size() > kMostTokenBytes) {
    return std::nullopt;
  }
  Digest digest;
  SHA256(reinterpret_cast<const uint8_t*>(token.data()), token.size(),
         digest.data());
  // All of them, whichever fits: time says nothing of what is here.
  const Entry* found = nullptr;
  for (const Entry& entry : entries_) {
    const bool same =
        CRYPTO_memcmp(entry.digest.data(), digest.data(), digest.size()) == 0;
    found = same ? &entry : found;
  }
  if (found == nullptr) return std::nullopt;
  return found->subject;
}

}  // namespace sparseserve
