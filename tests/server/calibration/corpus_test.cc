#include "server/calibration/corpus.h"

#include <filesystem>
#include <set>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/testing/fake_tokenizer.h"
#include "tests/testing/test_folder.h"

namespace sparseserve {
namespace {

using testing::FakeTokenizer;
using ::testing::HasSubstr;

Corpus::Options Options(uint64_t seed = 1) {
  return {.bands = *BandsBetween({64, 128, 256}, 1024), .seed = seed};
}

// A byte is a token.
TextFile File(const std::string& name, size_t tokens) {
  return {name, std::string(tokens, name[0])};
}

std::set<std::string> FilesOf(const std::vector<CorpusText>& texts) {
  std::set<std::string> files;
  for (const CorpusText& text : texts) {
    files.insert(text.name.substr(0, text.name.find('#')));
  }
  return files;
}

TEST(CorpusTest, NoFileIsInBothHalves) {
  std::vector<TextFile> files;
  for (char name = 'a'; name < 'i'; ++name) {
    files.push_back(File(std::string(1, name), 600));
  }
  const auto corpus = BuildCorpus(files, FakeTokenizer(), Options());
  ASSERT_TRUE(corpus.ok()) << corpus.status();
  EXPECT_EQ(corpus->calibration.size(), 8);
  EXPECT_EQ(corpus->held_out.size(), 8);
  EXPECT_EQ(corpus->tokens, 16 * 256);
  EXPECT_EQ(corpus->held_out_tokens, 8 * 256);
  std::set<std::string> all = FilesOf(corpus->calibration);
  EXPECT_EQ(all.size(), 4);
  all.merge(FilesOf(corpus->held_out));
  EXPECT_EQ(all.size(), 8);
  // Many files come first.
  std::vector<CorpusText> first = corpus->held_out;
  first.resize(4);
  EXPECT_EQ(FilesOf(first).size(), 4);
}

TEST(CorpusTest, TextsEndWithTheLongestBandTheyReach) {
  const auto corpus =
      BuildCorpus({File("a", 127), File("b", 130), File("c", 255)},
                  FakeTokenizer(), Options());
  ASSERT_TRUE(corpus.ok()) << corpus.status();
  ASSERT_EQ(corpus->calibration.size() + corpus->held_out.size(), 2);
  EXPECT_EQ(corpus->calibration[0].tokens.size(), 128);
  EXPECT_EQ(corpus->held_out[0].tokens.size(), 128);
}

TEST(CorpusTest, TheSeedChoosesWhatIsHeldOut) {
  std::vector<TextFile> files;
  for (char name = 'a'; name < 'i'; ++name) {
    files.push_back(File(std::string(1, name), 300));
  }
  const auto held_out = [&](uint64_t seed) {
    return FilesOf(
        BuildCorpus(files, FakeTokenizer(), Options(seed))->held_out);
  };
  EXPECT_EQ(held_out(1), held_out(1));
  EXPECT_NE(held_out(1), held_out(2));
}

TEST(CorpusTest, TheDigestIsOfTheFiles) {
  const auto digest = [](const std::string& last) {
    return BuildCorpus({File("a", 300), File(last, 300)}, FakeTokenizer(),
                       Options())
        ->sha256;
  };
  EXPECT_EQ(digest("b"), digest("b"));
  EXPECT_NE(digest("b"), digest("c"));
  EXPECT_EQ(digest("b").size(), 64);
}

TEST(CorpusTest, TooFewTextsAreRefused) {
  const auto corpus =
      BuildCorpus({File("a", 300), File("b", 100)}, FakeTokenizer(), Options());
  EXPECT_TRUE(absl::IsInvalidArgument(corpus.status()));
  EXPECT_THAT(std::string(corpus.status().message()),
              HasSubstr("1 of 2 files have 128 tokens or more"));
}

TEST(CorpusTest, FilesThatCannotBeReadAreNamed) {
  const testing::TestFolder folder;
  folder.Write("text", "words");
  EXPECT_EQ(*ReadTextFile(folder.path() + "/text"), "words");
  EXPECT_TRUE(absl::IsNotFound(ReadTextFile(folder.path() + "/no").status()));
  EXPECT_TRUE(absl::IsInvalidArgument(ReadTextFile(folder.path()).status()));
  std::filesystem::resize_file(folder.path() + "/text", (64 << 20) + 1);
  EXPECT_THAT(
      std::string(ReadTextFile(folder.path() + "/text").status().message()),
      HasSubstr("must have at most 67108864"));
}

}  // namespace
}  // namespace sparseserve
