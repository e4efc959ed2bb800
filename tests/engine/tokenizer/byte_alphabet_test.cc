#include "engine/tokenizer/byte_alphabet.h"

#include <optional>
#include <set>
#include <string>

#include "gtest/gtest.h"

namespace sparseserve {
namespace {

TEST(ByteAlphabetTest, WritesBytesAsGpt2Does) {
  EXPECT_EQ(ByteToAlphabet('a'), "a");
  EXPECT_EQ(ByteToAlphabet(' '), "Ġ");
  EXPECT_EQ(ByteToAlphabet('\n'), "Ċ");
  EXPECT_EQ(ByteToAlphabet(0x00), "Ā");
  EXPECT_EQ(ByteToAlphabet(0x7f), "ġ");
  EXPECT_EQ(ByteToAlphabet(0xa0), "ł");
  EXPECT_EQ(ByteToAlphabet(0xad), "Ń");
  EXPECT_EQ(ByteToAlphabet(0xff), "ÿ");
}

TEST(ByteAlphabetTest, GivesEveryByteACharacterOfItsOwnAndBack) {
  std::set<std::string> seen;
  for (int byte = 0; byte < 256; ++byte) {
    const std::string text = ByteToAlphabet(static_cast<uint8_t>(byte));
    EXPECT_TRUE(seen.insert(text).second) << byte;
    EXPECT_EQ(AlphabetToBytes(text), std::string(1, static_cast<char>(byte)));
  }
}

TEST(ByteAlphabetTest, RefusesCharactersThatStandForNoByte) {
  for (const char* text :
       {" ", "a b", "\n", "\x7f", "ń", "€", "\xc4", "\xc4z", "\xff", "\xad"}) {
    EXPECT_EQ(AlphabetToBytes(text), std::nullopt) << text;
  }
  EXPECT_EQ(AlphabetToBytes(""), "");
  EXPECT_EQ(AlphabetToBytes("ĠtheÃ©"), " the\xc3\xa9");
}

}  // namespace
}  // namespace sparseserve
