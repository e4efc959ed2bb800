#include "server/security/published_file.h"

#include <sys/stat.h>

#include <atomic>
#include <fstream>
#include <set>
#include <sstream>
#include <thread>

#include "gtest/gtest.h"

namespace sparseserve {
namespace {

std::string Read(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

TEST(PublishedFileTest, ReadersFindTheLatestContentsUnderOnePath) {
  PublishedFile file;
  EXPECT_EQ(file.path(), "");
  ASSERT_TRUE(file.Publish("one").ok());
  const std::string path = file.path();
  EXPECT_EQ(Read(path), "one");
  ASSERT_TRUE(file.Publish("and two").ok());
  EXPECT_EQ(file.path(), path);
  EXPECT_EQ(Read(path), "and two");
  ASSERT_TRUE(file.Publish("").ok());
  EXPECT_EQ(Read(path), "");
}

TEST(PublishedFileTest, VersionsDifferInTheSecondOfTheirTime) {
  PublishedFile file;
  std::set<time_t> times;
  for (int i = 0; i < 5; ++i) {
    ASSERT_TRUE(file.Publish("text").ok());
    struct stat state = {};
    ASSERT_EQ(stat(file.path().c_str(), &state), 0);
    times.insert(state.st_mtim.tv_sec);
  }
  EXPECT_EQ(times.size(), 5);
}

TEST(PublishedFileTest, NobodyReadsAMixture) {
  PublishedFile file;
  ASSERT_TRUE(file.Publish(std::string(10'000, 'a')).ok());
  const std::string path = file.path();
  std::atomic<bool> stop{false};
  std::atomic<int> mixtures{0}, reads{0};
  std::thread reader([&] {
    while (!stop || reads == 0) {
      const std::string text = Read(path);
      ++reads;
      if (text.size() != 10'000 ||
          text.find_first_not_of(text.front()) != text.npos) {
        ++mixtures;
      }
    }
  });
  for (int i = 0; i < 500; ++i) {
    ASSERT_TRUE(
        file.Publish(std::string(10'000, static_cast<char>('a' + i % 26)))
            .ok());
  }
  stop = true;
  reader.join();
  EXPECT_EQ(mixtures, 0);
}

}  // namespace
}  // namespace sparseserve
