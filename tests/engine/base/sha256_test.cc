#include "engine/base/sha256.h"

#include <string>
#include <string_view>

#include "gtest/gtest.h"

namespace sparseserve {
namespace {

absl::Span<const std::byte> Bytes(std::string_view text) {
  return {reinterpret_cast<const std::byte*>(text.data()), text.size()};
}

// FIPS 180-2, appendix B, and the digest of nothing.
TEST(Sha256Test, IsThatOfTheStandard) {
  Sha256 nothing;
  EXPECT_EQ(nothing.Finish(),
            "e3b0c44298fc1c149afbf4c8996fb924"
            "27ae41e4649b934ca495991b7852b855");
  Sha256 abc;
  abc.Add(Bytes("abc"));
  EXPECT_EQ(abc.Finish(),
            "ba7816bf8f01cfea414140de5dae2223"
            "b00361a396177a9cb410ff61f20015ad");
}

TEST(Sha256Test, DoesNotDependOnHowBytesComeInParts) {
  const std::string text(1000, 'a');
  Sha256 whole;
  whole.Add(Bytes(text));
  Sha256 parts;
  for (size_t i = 0; i < text.size(); i += 77) {
    parts.Add(Bytes(text).subspan(i, 77));
  }
  EXPECT_EQ(parts.Finish(), whole.Finish());
}

}  // namespace
}  // namespace sparseserve
