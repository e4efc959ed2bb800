#include "server/calibration/synthetic_texts.h"

#include <cctype>
#include <map>
#include <sstream>
#include <string>

#include "gtest/gtest.h"

namespace sparseserve {
namespace {

TEST(SyntheticTextsTest, TheSeedAndTheSizeMakeAText) {
  for (const auto& make : {RetrievalText, AggregationText}) {
    const std::string text = make(1, 20'000);
    EXPECT_EQ(text, make(1, 20'000));
    EXPECT_NE(text, make(2, 20'000));
    EXPECT_GE(text.size(), 20'000);
    EXPECT_LE(text.size(), 20'200);
    EXPECT_EQ(text, make(1, 30'000).substr(0, text.size()));
  }
}

// Every answer is what was said before.
TEST(SyntheticTextsTest, CodesAreAskedForThatWereTold) {
  std::istringstream text(RetrievalText(3, 20'000));
  std::map<std::string, std::string> codes;
  int asked = 0;
  for (std::string line; std::getline(text, line);) {
    std::istringstream words(line);
    std::string skipped, name, code;
    if (line.rfind("The secret code of ", 0) == 0) {
      words >> skipped >> skipped >> skipped >> skipped >> name >> skipped >>
          code;
      codes[name] = code;
    } else if (line.rfind("Question:", 0) == 0) {
      ++asked;
      const std::string answer = line.substr(line.find("Answer:"));
      std::istringstream said(answer);
      said >> skipped >> skipped >> skipped >> skipped >> skipped >> name >>
          skipped >> code;
      EXPECT_EQ(codes[name], code) << line;
    }
  }
  EXPECT_GT(asked, 50);
}

TEST(SyntheticTextsTest, CommonWordsAreThoseThatComeOften) {
  std::istringstream text(AggregationText(4, 20'000));
  std::map<std::string, int> seen;
  std::string answer;
  for (std::string line; std::getline(text, line);) {
    if (line.rfind("Question:", 0) == 0) {
      answer = line.substr(line.find("Answer:") + 8);
      continue;
    }
    const size_t space = line.find(". ");
    if (space != line.npos && std::isdigit(line[0])) {
      ++seen[line.substr(space + 2)];
    }
  }
  answer.pop_back();  // the full stop
  std::istringstream words(answer);
  int found = 0;
  for (std::string word; words >> word; ++found) {
    EXPECT_GT(seen[word], 50) << word;
    seen.erase(word);
  }
  EXPECT_EQ(found, 5);
  for (const auto& [word, times] : seen) EXPECT_LT(times, 50) << word;
}

}  // namespace
}  // namespace sparseserve
