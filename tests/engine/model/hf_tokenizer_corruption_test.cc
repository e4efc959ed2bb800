// What broken and hostile tokenizer.json files get: an error with a reason or a
// tokenizer that works, and no memory to speak of.

#include <algorithm>
#include <cstdio>
#include <fstream>
#include <random>
#include <sstream>
#include <string>
#include <vector>

#include "engine/model/hf_tokenizer.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tests/testing/largest_request.h"

namespace sparseserve {
namespace {

using nlohmann::json;

bool IsOneCharacter(const std::string& text) {
  return std::count_if(text.begin(), text.end(),
                       [](char byte) { return (byte & 0xc0) != 0x80; }) == 1;
}

// The golden file of a family, its vocabulary cut to what a mutation can hit:
// the bytes, 40 further tokens, single characters, and the merges of these.
std::string SmallDocument(const std::string& family) {
  std::ifstream file("tests/golden/tokenizer_families/" + family +
                     "/tokenizer.json");
  std::ostringstream text;
  text << file.rdbuf();
  json document = json::parse(text.str());
  json& model = document["model"];
  const size_t kept = 256 + 40 + document["added_tokens"].size();
  json vocab = json::object();
  for (const auto& [token, id] : model["vocab"].items()) {
    if (id.get<size_t>() < kept || IsOneCharacter(token)) vocab[token] = id;
  }
  json merges = json::array();
  for (const json& merge : model["merges"]) {
    std::string left;
    std::string right;
    if (merge.is_array()) {
      left = merge[0];
      right = merge[1];
    } else {
      const std::string both = merge;
      left = both.substr(0, both.find(' '));
      right = both.substr(both.find(' ') + 1);
    }
    if (vocab.contains(left) && vocab.contains(right) &&
        vocab.contains(left + right)) {
      merges.push_back(merge);
    }
  }
  model["vocab"] = vocab;
  model["merges"] = merges;
  size_t next = kept;
  for (json& token : document["added_tokens"]) {
    if (!vocab.contains(token["content"])) token["id"] = next++;
  }
  document["post_processor"] = nullptr;
  return document.dump();
}

// Changes, cuts or repeats bytes at one to four random places; most of what it
// writes is of JSON's own alphabet.
std::string Mutate(const std::string& original, std::mt19937& random) {
  const auto below = [&random](size_t limit) { return random() % limit; };
  constexpr std::string_view kAlphabet = "{}[]\",:0123456789-.eE\\utrfn al";
  constexpr const char* kValues[] = {"null",        "true",
                                     "[]",          "{}",
                                     "\"\"",        "-1",
                                     "1e99",        "4294967296",
                                     "2147483647",  "18446744073709551616",
                                     "\"\\ud800\"", "[[[[[[[["};
  std::string bytes = original;
  for (size_t i = below(4) + 1; i > 0 && bytes.size() > 9; --i) {
    const size_t place = below(bytes.size() - 8);
    switch (below(7)) {
      case 0:
        bytes[place] ^= static_cast<char>(1 << below(8));
        break;
      case 1:
        bytes[place] = kAlphabet[below(kAlphabet.size())];
        break;
      case 2:
        if (below(8) == 0) bytes.resize(place);
        break;
      case 3:
        bytes.erase(place, below(8) + 1);
        break;
      case 4:
        bytes.insert(place, bytes.substr(place, below(24) + 1));
        break;
      default: {
        // The value behind a colon, or what looks like one.
        const size_t colon = bytes.find(':', place);
        if (colon == std::string::npos) break;
        const size_t end = bytes.find_first_of(",}", colon);
        if (end == std::string::npos) break;
        bytes.replace(colon + 1, end - colon - 1, kValues[below(12)]);
        break;
      }
    }
  }
  return bytes;
}

class HfMutationTest : public ::testing::TestWithParam<const char*> {};

TEST_P(HfMutationTest, EveryMutationIsAnErrorOrATokenizerThatWorks) {
  const std::string original = SmallDocument(GetParam());
  const auto unspoiled = LoadHfTokenizer(original, "", {});
  ASSERT_TRUE(unspoiled.ok()) << unspoiled.status();
  std::mt19937 random(20251125);
  int valid = 0;
  int refused = 0;
  testing::ForgetRequests();
  for (int i = 0; i < 3000; ++i) {
    // A copy of exact size, so that a sanitizer sees any byte read beyond it.
    const std::string mutated = Mutate(original, random);
    const std::vector<char> bytes(mutated.begin(), mutated.end());
    const auto tokenizer =
        LoadHfTokenizer({bytes.data(), bytes.size()}, "", {});
    if (tokenizer.ok()) {
      ++valid;
      const auto tokens = (*tokenizer)->Encode("a b \u00e9 12 <s>", true);
      EXPECT_TRUE(tokens.ok()) << tokens.status();
      for (const TokenId token : *tokens) {
        EXPECT_LT(token, (*tokenizer)->vocab_size());
      }
    } else {
      ++refused;
      EXPECT_TRUE(absl::IsInvalidArgument(tokenizer.status()))
          << tokenizer.status();
      EXPECT_FALSE(tokenizer.status().message().empty());
    }
  }
  std::printf("%s: %d mutations refused, %d still valid\n", GetParam(), refused,
              valid);
  EXPECT_GT(refused, 1000);
  EXPECT_GT(valid, 30);
  // Ids that are left out take 32 bytes each, up to the limit.
  EXPECT_LT(testing::LargestRequest(), 4 << 20) << "bytes in one allocation";
}

TEST_P(HfMutationTest, EveryTruncationIsRefused) {
  const std::string original = SmallDocument(GetParam());
  for (size_t length = 0; length < original.size(); length += 7) {
    const std::vector<char> bytes(original.begin(), original.begin() + length);
    EXPECT_FALSE(LoadHfTokenizer({bytes.data(), bytes.size()}, "", {}).ok())
        << length;
  }
}

INSTANTIATE_TEST_SUITE_P(Families, HfMutationTest,
                         ::testing::Values("gpt2", "llama3", "qwen2", "llama",
                                           "gemma"),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace sparseserve
