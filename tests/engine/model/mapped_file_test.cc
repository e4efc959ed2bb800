#include "engine/model/mapped_file.h"

#include <filesystem>
#include <fstream>
#include <string>
#include <utility>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace sparseserve {
namespace {

class MappedFileTest : public testing::Test {
 protected:
  MappedFileTest() {
    for (int i = 0; i < 300000; ++i) text_ += static_cast<char>(i * 31 / 7);
    std::ofstream(path_, std::ios::binary) << text_;
  }
  ~MappedFileTest() override { std::filesystem::remove(path_); }

  static std::string TextOf(const MappedFile& file) {
    return std::string(reinterpret_cast<const char*>(file.bytes().data()),
                       file.bytes().size());
  }

  const std::string path_ = testing::TempDir() + "mapped_file_test";
  std::string text_;
};

TEST_F(MappedFileTest, ForgottenPagesReadTheSame) {
  const MappedFile file = MappedFile::Open(path_).value();
  EXPECT_EQ(TextOf(file), text_);
  file.ForgetPages();
  EXPECT_EQ(TextOf(file), text_);
}

TEST_F(MappedFileTest, AMovedFileHasNothingToForget) {
  MappedFile file = MappedFile::Open(path_).value();
  const MappedFile other = std::move(file);
  file.ForgetPages();
  EXPECT_EQ(TextOf(other), text_);
}

TEST_F(MappedFileTest, ErrorsNameThePath) {
  const auto missing = MappedFile::Open(path_ + ".none");
  EXPECT_EQ(missing.status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(missing.status().message()),
              testing::HasSubstr(path_ + ".none"));
  std::ofstream(path_, std::ios::trunc);
  const auto empty = MappedFile::Open(path_);
  EXPECT_EQ(empty.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(empty.status().message()), testing::HasSubstr(path_));
}

}  // namespace
}  // namespace sparseserve
