#pragma once

#include <cstddef>
#include <memory>
#include <string>

#include "absl/types/span.h"

namespace sparseserve {

// The SHA-256 of bytes that come in parts. Move-only; for one thread.
class Sha256 {
 public:
  Sha256();
  ~Sha256();
  Sha256(Sha256&&) noexcept;
  Sha256& operator=(Sha256&&) noexcept;

  void Add(absl::Span<const std::byte> bytes);

  // Of all that was added: 64 hexadecimal digits. Last.
  std::string Finish();

 private:
  struct Context;
  std::unique_ptr<Context> context_;
};

}  // namespace sparseserve
