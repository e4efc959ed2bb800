#include "engine/model/gguf_file.h"

#include <cstring>
#include <filesystem>
#include <fstream>
#include <string>
#include <tuple>
#include <utility>
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

TEST(GgufFileTest, NamesKeyAndTypeWhenAValueIsNotWhatWasAskedFor) {
  GgufWriter writer;
  writer.Add("text", std::string("x"));
  writer.Add("negative", int8_t{-1});
  writer.Add("large", uint64_t{1} << 63);
  writer.Add("wide", int64_t{1} << 32);
  writer.Add("ratio", 1e300);
  writer.Add("texts", std::vector<std::string>{"x"});
  writer.Add("floats", std::vector<float>{1});
  const std::string bytes = writer.Build();
  const auto file = GgufFile::Parse(AsBytes(bytes));
  ASSERT_TRUE(file.ok()) << file.status();
  const GgufMetadata& metadata = (*file)->metadata();
  const std::pair<absl::Status, std::string> kCases[] = {
      {metadata.GetUint32("none").status(), "no metadata key \"none\""},
      {metadata.GetStringArray("none").status(), "no metadata key \"none\""},
      {metadata.GetUint32("text").status(), "\"text\" is string, not an int"},
      {metadata.GetUint32("negative").status(),
       "\"negative\" is -1, not within uint32"},
      {metadata.GetUint32("wide").status(),
       "\"wide\" is 4294967296, not within uint32"},
      {metadata.GetInt64("large").status(),
       "\"large\" is 9223372036854775808, not within int64"},
      {metadata.GetFloat("wide").status(), "\"wide\" is int64, not a float"},
      {metadata.GetFloat("ratio").status(),
       "\"ratio\" is 1e+300, not within float32"},
      {metadata.GetBool("wide").status(), "\"wide\" is int64, not a bool"},
      {metadata.GetString("wide").status(), "\"wide\" is int64, not a string"},
      {metadata.GetString("texts").status(),
       "\"texts\" is array, not a string"},
      {metadata.GetStringArray("text").status(),
       "\"text\" is string, not an array"},
      {metadata.GetStringArray("floats").status(),
       "\"floats\" is an array of float32, not an array of strings"},
      {metadata.GetInt32Array("texts").status(),
       "\"texts\" is string, not an integer"},
      {metadata.GetFloatArray("texts").status(),
       "\"texts\" is string, not a float"}};
  for (const auto& [status, message] : kCases) {
    EXPECT_THAT(std::string(status.message()), HasSubstr(message));
  }
}

TEST(GgufFileTest, AcceptsIntegersOfEveryWidthInAnArray) {
  GgufWriter writer;
  writer.Add("fits", std::vector<int32_t>{-1, 2});
  std::string bytes = writer.Build();
  // The element type's number comes after key, type: make it uint32.
  const size_t element_type = bytes.find("fits") + 4 + 4;
  bytes[element_type] = 4;
  const auto file = GgufFile::Parse(AsBytes(bytes));
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_THAT(
      std::string((*file)->metadata().GetInt32Array("fits").status().message()),
      HasSubstr("\"fits\" is 4294967295, not within int32"));
}

TEST(GgufFileTest, AcceptsNestedArraysAndRefusesToReadThemAsFlatOnes) {
  GgufWriter writer;
  writer.Add("nested", std::vector<std::string>{});
  std::string bytes = writer.Build();
  const size_t value = bytes.find("nested") + 6 + 4;
  // One array of two bytes, in place of the empty array of strings.
  std::string nested;
  testing::AppendRaw<uint32_t>(nested, 9);
  testing::AppendRaw<uint64_t>(nested, 1);
  testing::AppendRaw<uint32_t>(nested, 0);
  testing::AppendRaw<uint64_t>(nested, 2);
  nested += "xy";
  bytes.replace(value, 12, nested);
  const auto file = GgufFile::Parse(AsBytes(bytes));
  ASSERT_TRUE(file.ok()) << file.status();
  const GgufMetadata& metadata = (*file)->metadata();
  EXPECT_TRUE(metadata.Has("nested"));
  EXPECT_FALSE(metadata.GetInt32Array("nested").ok());
  EXPECT_FALSE(metadata.GetStringArray("nested").ok());
}

TEST(GgufFileTest, GivesMatricesAndVectorsWithTheirBytes) {
  GgufWriter writer;
  const std::string blocks(2 * 3 * 34, 'b');
  writer.AddFloats("norm", 0, 3, std::vector<float>{1, 2, 3});
  writer.AddTensor("weight", DType::kQ8_0, {64, 3}, blocks);
  const std::string bytes = writer.Build();
  const auto file = GgufFile::Parse(AsBytes(bytes));
  ASSERT_TRUE(file.ok()) << file.status();

  const auto norm = (*file)->GetVector("norm");
  ASSERT_TRUE(norm.ok()) << norm.status();
  EXPECT_EQ(norm->rows, 1);
  EXPECT_EQ(norm->columns, 3);
  float values[3];
  std::memcpy(values, norm->data, sizeof(values));
  EXPECT_THAT(values, ElementsAre(1, 2, 3));

  const auto weight = (*file)->GetMatrix("weight");
  ASSERT_TRUE(weight.ok()) << weight.status();
  EXPECT_EQ(weight->dtype, DType::kQ8_0);
  EXPECT_EQ(weight->rows, 3);
  EXPECT_EQ(weight->columns, 64);
  EXPECT_EQ(std::memcmp(weight->data, blocks.data(), blocks.size()), 0);

  EXPECT_EQ((*file)->tensors().size(), 2);
  EXPECT_EQ((*file)->FindTensor("weight")->bytes, blocks.size());
  EXPECT_EQ((*file)->FindTensor("none"), nullptr);
}

TEST(GgufFileTest, PlacesTensorsByTheAlignmentOfTheFile) {
  for (const uint32_t alignment : {8u, 64u, 4096u}) {
    GgufWriter writer(alignment);
    writer.AddFloats("a", 0, 1, std::vector<float>{1});
    writer.AddFloats("b", 0, 1, std::vector<float>{2});
    const std::string bytes = writer.Build();
    const auto file = GgufFile::Parse(AsBytes(bytes));
    ASSERT_TRUE(file.ok()) << file.status();
    float b = 0;
    std::memcpy(&b, (*file)->GetVector("b").value().data, sizeof(b));
    EXPECT_EQ(b, 2) << alignment;
    EXPECT_EQ((*file)->FindTensor("b")->offset, alignment);
  }
}

TEST(GgufFileTest, ReadsVersion2) {
  std::string bytes = FileWithEveryType();
  bytes[4] = 2;
  EXPECT_TRUE(GgufFile::Parse(AsBytes(bytes)).ok());
}

TEST(GgufFileTest, NamesTypeAndTensorWhenOneOfAnUnreadTypeIsAskedFor) {
  GgufWriter writer;
  writer.AddFloats("odd", 2, 64, std::vector<float>(128));
  std::string bytes = writer.Build();
  const size_t type = bytes.find("odd") + 3 + 4 + 2 * 8;
  const std::pair<char, std::string> kTypes[] = {
      {10,
       "tensor \"odd\" is Q2_K (type 10); read are F32, F16, BF16, Q8_0, "
       "Q4_0, Q4_1, Q5_0, Q5_1, Q4_K, Q5_K, Q6_K"},
      {11, "tensor \"odd\" is Q3_K (type 11)"},
      {23, "tensor \"odd\" is IQ4_XS (type 23)"},
      {99, "tensor \"odd\" is unknown (type 99)"}};
  for (const auto& [number, message] : kTypes) {
    bytes[type] = number;
    const auto file = GgufFile::Parse(AsBytes(bytes));
    ASSERT_TRUE(file.ok()) << file.status();
    EXPECT_THAT(std::string((*file)->GetMatrix("odd").status().message()),
                HasSubstr(message));
  }
}

TEST(GgufFileTest, NamesTheTensorThatIsMissingOrOfAnotherShape) {
  GgufWriter writer;
  writer.AddFloats("matrix", 2, 3, std::vector<float>(6));
  const std::string bytes = writer.Build();
  const auto file = GgufFile::Parse(AsBytes(bytes));
  ASSERT_TRUE(file.ok()) << file.status();
  const absl::Status missing = (*file)->GetMatrix("none").status();
  EXPECT_EQ(missing.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(missing.message()), HasSubstr("tensor \"none\""));
  EXPECT_THAT(std::string((*file)->GetVector("matrix").status().message()),
              HasSubstr("tensor \"matrix\" has shape [3, 2], not 1 dim"));
}

TEST(GgufFileTest, OpensAFileByPath) {
  const TemporaryFile stored(FileWithEveryType());
  const auto file = GgufFile::Open(stored.path());
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ((*file)->metadata().GetString("string").value(), "llama");
  EXPECT_EQ((*file)->file_bytes(),
            static_cast<int64_t>(FileWithEveryType().size()));
}

TEST(GgufFileTest, NamesThePathThatCannotBeOpened) {
  const TemporaryFile empty("");
  const std::string missing = empty.path() + ".none";
  const std::string directory = ::testing::TempDir();
  const std::tuple<std::string, absl::StatusCode, std::string> kCases[] = {
      {missing, absl::StatusCode::kNotFound, "cannot open " + missing},
      {directory, absl::StatusCode::kInvalidArgument, "not a regular file"},
      {empty.path(), absl::StatusCode::kInvalidArgument, "is empty"}};
  for (const auto& [path, code, message] : kCases) {
    const absl::Status status = GgufFile::Open(path).status();
    EXPECT_EQ(status.code(), code) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr(message));
  }
}

TEST(GgufFileTest, NamesThePathOfABrokenFile) {
  const TemporaryFile stored("GGUFxx");
  const absl::Status status = GgufFile::Open(stored.path()).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()),
              HasSubstr(stored.path() + ": the version"));
}

}  // namespace
}  // namespace sparseserve
