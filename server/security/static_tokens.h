#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace sparseserve {

// Bearer tokens that a file lists, and whose they are. Keeps only their SHA-256
// digests. Immutable.
class StaticTokens {
 public:
  // Bytes of a token; less could be guessed.
  static constexpr size_t kLeastTokenBytes = 16;
  static constexpr size_t kMostTokenBytes = 1024;
  static constexpr size_t kMostTokens = 10'000;

  StaticTokens() = default;
  // `text` has a line for each token, the subject and the token with blanks
  // between; empty lines and those that begin with # count for nothing.
  // INVALID_ARGUMENT names the line that is wrong, never what it holds.
  static absl::StatusOr<StaticTokens> Parse(std::string_view text);

  // Whose `token` is. Takes as long for each token of one length, whether it is
  // here or not, and which one it is.
  std::optional<std::string> SubjectOf(std::string_view token) const;

  bool empty() const { return entries_.empty(); }

 private:
  using Digest = std::array<uint8_t, 32>;
  struct Entry {
    Digest digest;
    std::string subject;
  };
  std::vector<Entry> entries_;
};

}  // namespace sparseserve
