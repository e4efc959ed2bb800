#include "engine/model/gguf_file.h"

#include <cmath>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <limits>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/testing/gguf_writer.h"

namespace sparseserve {
namespace {

using ::testing::ElementsAre;
using testing::GgufWriter;
using ::testing::HasSubstr;

absl::Span<const std::byte> AsBytes(const std::string& text) {
  return absl::MakeConstSpan(reinterpret_cast<const std::byte*>(text.data()),
                             text.size());
}

// A file of its own in the temporary directory, removed at the end.
class TemporaryFile {
 public:
  explicit TemporaryFile(const std::string& content)
      : path_(std::filesystem::path(::testing::TempDir()) /
              (std::string("gguf_file_test_") +
               ::testing::UnitTest::GetInstance()->current_test_info()->name() +
               ".gguf")) {
    std::ofstream(path_, std::ios::binary) << content;
  }
  ~TemporaryFile() { std::filesystem::remove(path_); }
  std::string path() const { return path_.string(); }

 private:
  std::filesystem::path path_;
};

std::string FileWithEveryType() {
  GgufWriter writer;
  writer.Add("u8", uint8_t{200});
  writer.Add("i8", int8_t{-7});
  writer.Add("u16", uint16_t{65000});
  writer.Add("i16", int16_t{-300});
  writer.Add("u32", uint32_t{4000000000});
  writer.Add("i32", int32_t{-70000});
  writer.Add("f32", 0.5f);
  writer.Add("bool", true);
  writer.Add("string", std::string("llama"));
  writer.Add("u64", uint64_t{1} << 40);
  writer.Add("i64", -(int64_t{1} << 40));
  writer.Add("f64", 0.25);
  writer.Add("strings", std::vector<std::string>{"a", "", "ccc"});
  writer.Add("i32s", std::vector<int32_t>{1, -2, 3});
  writer.Add("f32s", std::vector<float>{1.5f, -2.5f});
  return writer.Build();
}

TEST(GgufFileTest, ReadsMetadataOfEveryType) {
  const std::string bytes = FileWithEveryType();
  const auto file = GgufFile::Parse(AsBytes(bytes));
  ASSERT_TRUE(file.ok()) << file.status();
  const GgufMetadata& metadata = (*file)->metadata();
  EXPECT_EQ(metadata.GetInt64("u8").value(), 200);
  EXPECT_EQ(metadata.GetInt64("i8").value(), -7);
  EXPECT_EQ(metadata.GetInt64("u16").value(), 65000);
  EXPECT_EQ(metadata.GetInt64("i16").value(), -300);
  EXPECT_EQ(metadata.GetInt64("i32").value(), -70000);
  EXPECT_EQ(metadata.GetInt64("u64").value(), int64_t{1} << 40);
  EXPECT_EQ(metadata.GetInt64("i64").value(), -(int64_t{1} << 40));
  EXPECT_EQ(metadata.GetUint32("u8").value(), 200u);
  EXPECT_EQ(metadata.GetUint32("u32").value(), 4000000000u);
  EXPECT_EQ(metadata.GetFloat("f32").value(), 0.5f);
  EXPECT_EQ(metadata.GetFloat("f64").value(), 0.25f);
  EXPECT_TRUE(metadata.GetBool("bool").value());
  EXPECT_EQ(metadata.GetString("string").value(), "llama");
  EXPECT_THAT(metadata.GetStringArray("strings").value(),
              ElementsAre("a", "", "ccc"));
  EXPECT_THAT(metadata.GetInt32Array("i32s").value(), ElementsAre(1, -2, 3));
  EXPECT_THAT(metadata.GetFloatArray("f32s").value(), ElementsAre(1.5f, -2.5f));
}

}  // namespace
}  // namespace sparseserve
