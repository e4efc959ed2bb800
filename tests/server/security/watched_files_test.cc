#include "server/security/watched_files.h"

#include <unistd.h>

#include <atomic>

#include "engine/base/mutex.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/testing/test_folder.h"

namespace sparseserve {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing::TestFolder;

// Takes contents but for those that begin with "bad".
class Taker {
 public:
  WatchedFiles::Set SetOf(std::vector<std::string> paths) {
    return {std::move(paths),
            [this](const std::vector<std::string>& contents) {
              MutexLock lock(mu_);
              for (const std::string& text : contents) {
                if (text.rfind("bad", 0) == 0) {
                  return absl::InvalidArgumentError("no good");
                }
              }
              contents_ = contents;
              return absl::OkStatus();
            },
            [this](const absl::Status& status) {
              MutexLock lock(mu_);
              reloads_.push_back(status);
              changed_.NotifyAll();
            }};
  }
  std::vector<std::string> contents() {
    MutexLock lock(mu_);
    return contents_;
  }
  std::vector<absl::Status> WaitForReloads(size_t count) {
    MutexLock lock(mu_);
    while (reloads_.size() < count) changed_.Wait(mu_);
    return reloads_;
  }
  size_t reloads() {
    MutexLock lock(mu_);
    return reloads_.size();
  }

 private:
  Mutex mu_;
  CondVar changed_;
  std::vector<std::string> contents_ ABSL_GUARDED_BY(mu_);
  std::vector<absl::Status> reloads_ ABSL_GUARDED_BY(mu_);
};

TEST(WatchedFilesTest, TakesOverWhatIsReplacedAndKeepsWhatIsRefused) {
  const TestFolder folder;
  folder.Write("a", "first");
  folder.Write("b", "of b");
  Taker taker;
  const auto files = WatchedFiles::Start(
      {taker.SetOf({folder.path() + "/a", folder.path() + "/b"})},
      absl::Hours(1));
  ASSERT_TRUE(files.ok()) << files.status();
  EXPECT_THAT(taker.contents(), ElementsAre("first", "of b"));
  (*files)->Look();
  EXPECT_EQ(taker.reloads(), 0);

  folder.Write("a", "second");
  (*files)->Look();
  EXPECT_THAT(taker.contents(), ElementsAre("second", "of b"));
  EXPECT_TRUE(taker.WaitForReloads(1)[0].ok());

  folder.Write("b", "bad one");
  (*files)->Look();
  (*files)->Look();  // it is not tried again
  EXPECT_THAT(taker.contents(), ElementsAre("second", "of b"));
  ASSERT_EQ(taker.reloads(), 2);
  EXPECT_THAT(std::string(taker.WaitForReloads(2)[1].message()),
              HasSubstr("/b: no good"));

  ASSERT_EQ(unlink((folder.path() + "/b").c_str()), 0);
  (*files)->Look();
  EXPECT_THAT(std::string(taker.WaitForReloads(3)[2].message()),
              HasSubstr("cannot read"));
  folder.Write("b", "better");
  (*files)->Look();
  EXPECT_THAT(taker.contents(), ElementsAre("second", "better"));
  EXPECT_TRUE(taker.WaitForReloads(4)[3].ok());
}

TEST(WatchedFilesTest, FollowsLinksThatAreSwapped) {
  const TestFolder folder;
  folder.Write("one/token", "1");
  folder.Write("two/token", "2");
  const std::string link = folder.path() + "/current";
  ASSERT_EQ(symlink("one", link.c_str()), 0);
  Taker taker;
  const auto files =
      WatchedFiles::Start({taker.SetOf({link + "/token"})}, absl::Hours(1));
  ASSERT_TRUE(files.ok()) << files.status();
  const std::string fresh = folder.path() + "/fresh";
  ASSERT_EQ(symlink("two", fresh.c_str()), 0);
  ASSERT_EQ(rename(fresh.c_str(), link.c_str()), 0);
  (*files)->Look();
  EXPECT_THAT(taker.contents(), ElementsAre("2"));
}

TEST(WatchedFilesTest, LooksByItself) {
  const TestFolder folder;
  folder.Write("a", "first");
  Taker taker;
  const auto files = WatchedFiles::Start({taker.SetOf({folder.path() + "/a"})},
                                         absl::Milliseconds(1));
  ASSERT_TRUE(files.ok()) << files.status();
  folder.Write("a", "the second");
  // It may look while half is written, and then again.
  size_t reloads = 0;
  do {
    taker.WaitForReloads(++reloads);
  } while (taker.contents().front() != "the second");
}

TEST(WatchedFilesTest, DoesNotStartWithoutGoodFiles) {
  const TestFolder folder;
  Taker taker;
  const auto missing = WatchedFiles::Start(
      {taker.SetOf({folder.path() + "/a"})}, absl::Hours(1));
  EXPECT_THAT(std::string(missing.status().message()), HasSubstr("/a"));
  folder.Write("a", "bad");
  const auto bad = WatchedFiles::Start({taker.SetOf({folder.path() + "/a"})},
                                       absl::Hours(1));
  EXPECT_THAT(std::string(bad.status().message()), HasSubstr("/a: no good"));
  folder.Write("a", std::string(WatchedFiles::kMostBytes + 1, 'a'));
  const auto large = WatchedFiles::Start({taker.SetOf({folder.path() + "/a"})},
                                         absl::Hours(1));
  EXPECT_THAT(std::string(large.status().message()), HasSubstr("more than"));
}

}  // namespace
}  // namespace sparseserve
