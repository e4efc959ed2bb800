#include "server/calibration/synthetic_texts.h"

#include <cstddef>
#include <random>
#include <set>
#include <utility>
#include <vector>

#include "engine/base/str_cat.h"

namespace sparseserve {
namespace {

constexpr const char* kSyllables[] = {
    "ba",  "co", "di", "fe", "ga", "hu", "ji", "ka", "lo", "mi", "na",  "po",
    "qui", "ra", "se", "to", "ul", "ve", "wo", "xa", "yo", "za", "bri", "cla"};
constexpr size_t kNumberOfSyllables = sizeof(kSyllables) / sizeof(*kSyllables);

// Standard libraries agree on the engine, but on no distribution.
class Draws {
 public:
  explicit Draws(uint64_t seed) : random_(seed) {}

  size_t Below(size_t count) { return random_() % count; }
  std::string Word() {
    std::string word;
    for (size_t i = 2 + Below(3); i > 0; --i) {
      word += kSyllables[Below(kNumberOfSyllables)];
    }
    return word;
  }

 private:
  std::mt19937_64 random_;
};

}  // namespace

std::string RetrievalText(uint64_t seed, size_t bytes) {
  constexpr size_t kAskedEvery = 3;  // statement
  Draws draws(seed);
  std::set<std::string> taken;
  std::vector<std::pair<std::string, size_t>> codes;
  std::string text =
      "Every name below has a secret code. The codes are asked for later.\n";
  while (text.size() < bytes) {
    std::string name = draws.Word();
    while (!taken.insert(name).second) name += draws.Word();
    codes.emplace_back(std::move(name), 100'000 + draws.Below(900'000));
    text += StrCat("The secret code of ", codes.back().first, " is ",
                   codes.back().second, ".\n");
    if (codes.size() % kAskedEvery != 0) continue;
    const auto& [asked, code] = codes[draws.Below(codes.size())];
    text += StrCat("Question: what is the secret code of ", asked,
                   "? Answer: the secret code of ", asked, " is ", code, ".\n");
  }
  return text;
}

std::string AggregationText(uint64_t seed, size_t bytes) {
  constexpr size_t kCommon = 5;
  constexpr size_t kAskedEvery = 40;  // words
  Draws draws(seed);
  std::vector<std::string> common;
  while (common.size() < kCommon) common.push_back(draws.Word());
  std::string text =
      "Below is a numbered list of words. Some of them come often. Now and "
      "then the list says which these are.\n";
  for (size_t number = 1; text.size() < bytes; ++number) {
    const bool is_common = draws.Below(3) == 0;
    text +=
        StrCat(number, ". ",
               is_common ? common[draws.Below(kCommon)] : draws.Word(), "\n");
    if (number % kAskedEvery != 0) continue;
    text += "Question: which words come most often? Answer:";
    for (const std::string& word : common) text += " " + word;
    text += ".\n";
  }
  return text;
}

}  // namespace sparseserve
