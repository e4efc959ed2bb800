#include "engine/model/safetensors_file.h"

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/testing/gguf_writer.h"
#include "tests/testing/safetensors_writer.h"
#include "tests/testing/tiny_model.h"

namespace sparseserve {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using testing::SafetensorsBytes;
using testing::SafetensorsWriter;

absl::StatusOr<std::unique_ptr<SafetensorsFile>> Parse(
    const std::string& bytes) {
  return SafetensorsFile::Parse(absl::MakeConstSpan(
      reinterpret_cast<const std::byte*>(bytes.data()), bytes.size()));
}

std::string ErrorOf(const std::string& bytes) {
  const auto file = Parse(bytes);
  if (file.ok()) return "";
  EXPECT_EQ(file.status().code(), absl::StatusCode::kInvalidArgument);
  return std::string(file.status().message());
}

TEST(SafetensorsFileTest, TensorsAreWhereTheHeaderPutsThem) {
  SafetensorsWriter writer;
  writer.Add("a", DType::kF32, {2, 3}, std::string(24, '\1'));
  writer.Add("b", DType::kBF16, {4}, std::string(8, '\2'));
  const std::string bytes = writer.Build();

  const auto file = Parse(bytes);

  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ((*file)->file_bytes(), bytes.size());
  ASSERT_EQ((*file)->tensors().size(), 2);
  const SafetensorsTensor& a = (*file)->tensors()[0];
  EXPECT_EQ(a.name, "a");
  EXPECT_EQ(a.dtype, DType::kF32);
  EXPECT_THAT(a.shape, ElementsAre(2, 3));
  EXPECT_EQ(*a.data, std::byte{1});
  const SafetensorsTensor& b = (*file)->tensors()[1];
  EXPECT_EQ(b.dtype, DType::kBF16);
  EXPECT_EQ(*b.data, std::byte{2});
  EXPECT_EQ(b.data, reinterpret_cast<const std::byte*>(bytes.data()) +
                        bytes.size() - 8);
}

TEST(SafetensorsFileTest, TypesThatAreNotReadAreKeptByName) {
  SafetensorsWriter writer;
  writer.Add("ids", "I64", {2}, std::string(16, '\0'));
  writer.Add("small", "F8_E4M3", {3}, std::string(3, '\0'));
  writer.Add("future", "F4", {3}, std::string(2, '\0'));
  const std::string bytes = writer.Build();
  const auto file = Parse(bytes);
  ASSERT_TRUE(file.ok()) << file.status();
  for (const SafetensorsTensor& tensor : (*file)->tensors()) {
    EXPECT_FALSE(tensor.dtype.has_value()) << tensor.name;
  }
  EXPECT_EQ((*file)->tensors()[2].type, "F4");
}

TEST(SafetensorsFileTest, ScalarsAndEmptyTensorsAreTensors) {
  SafetensorsWriter writer;
  writer.Add("empty", DType::kF32, {0, 5}, "");
  writer.Add("scalar", DType::kF32, {}, std::string(4, '\0'));
  writer.Add("last", DType::kF16, {0}, "");
  const std::string bytes = writer.Build();
  const auto file = Parse(bytes);
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ((*file)->tensors().size(), 3);
}

TEST(SafetensorsFileTest, HeaderWithoutTensorsIsAFile) {
  const std::string bytes = SafetensorsBytes("{}", "");
  const auto file = Parse(bytes);
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_THAT((*file)->tensors(), IsEmpty());
}

TEST(SafetensorsFileTest, OpenedFileIsNamedInErrors) {
  EXPECT_EQ(SafetensorsFile::Open("/nonexistent/x").status().code(),
            absl::StatusCode::kNotFound);
  const testing::TestFile file(SafetensorsBytes("{]", ""));
  const absl::Status status = SafetensorsFile::Open(file.path()).status();
  EXPECT_THAT(std::string(status.message()), HasSubstr(file.path()));
}

// Lengths of a header that is not there.
TEST(SafetensorsFileTest, HeaderLengthIsHeldToTheFileAndTheLimit) {
  EXPECT_THAT(ErrorOf("1234567"), HasSubstr("has 7 bytes, fewer than the 8"));
  for (const uint64_t length :
       {uint64_t{3}, uint64_t{100'000'001}, uint64_t{1} << 40,
        uint64_t{1} << 63, UINT64_MAX, UINT64_MAX - 7}) {
    std::string bytes;
    testing::AppendRaw(bytes, length);
    bytes += "{}";
    EXPECT_THAT(ErrorOf(bytes), HasSubstr("claims a header of " +
                                          std::to_string(length) + " bytes"));
  }
  const std::string long_header = "{}" + std::string(100'000'000, ' ');
  EXPECT_THAT(ErrorOf(SafetensorsBytes(long_header, "")),
              HasSubstr("100000000 are the limit"));
}

struct Row {
  std::string name;
  std::string header;
  std::string message;
};

class SafetensorsHeaderTest : public ::testing::TestWithParam<Row> {};

// Each header comes with 16 bytes of data.
TEST_P(SafetensorsHeaderTest, ErrorNamesTheThing) {
  EXPECT_THAT(ErrorOf(SafetensorsBytes(GetParam().header, std::string(16, 0))),
              HasSubstr(GetParam().message));
}

std::string Tensor(std::string_view name, std::string_view fields) {
  return "\"" + std::string(name) + "\":{" + std::string(fields) + "}";
}
std::string One(std::string_view fields) {
  return "{" + Tensor("a", fields) + "}";
}
// An F32 tensor with this shape and offsets.
std::string Placed(std::string_view name, std::string_view shape,
                   std::string_view offsets) {
  return Tensor(name, "\"dtype\":\"F32\",\"shape\":" + std::string(shape) +
                          ",\"data_offsets\":" + std::string(offsets));
}

const Row kJson[] = {
    {"Empty", "", "does not begin with \"{\""},
    {"LeadingBlank", " {}", "does not begin with \"{\""},
    {"Array", "[]", "does not begin with \"{\""},
    {"CutShort", R"({"a")", "the header is not JSON at its byte 4"},
    {"MoreAfterIt", "{} {}", "the header is not JSON at its byte 3"},
    {"NotUtf8", "{\"\xff\":1}", "the header is not JSON at its byte 2"},
    {"NulByte", std::string("{\0}", 3), "the header is not JSON at its byte 1"},
    {"HugeNumber", One(R"("shape":[1e999])"), "the header is not JSON"},
    {"TensorIsNumber", R"({"a":5})", "tensor \"a\" is 5, not an object"},
    {"TensorIsNull", R"({"a":null})", "tensor \"a\" is null, not an object"},
    {"TensorIsArray", R"({"a":[]})", "tensor \"a\" is an array, not an object"},
    {"NestedObject", One(R"("dtype":{"dtype":{}})"),
     "tensor \"a\": dtype is an object, not text"},
    {"NestedArrays", One(R"("shape":[[[[]]]])"),
     "an element of tensor \"a\": shape is an array, not a natural number"},
    {"MetadataIsText", R"({"__metadata__":"pt"})",
     "__metadata__ is text, not an object"},
    {"MetadataHoldsNumber", R"({"__metadata__":{"k":1}})",
     "__metadata__ is 1, not text"},
    {"MetadataNests", R"({"__metadata__":{"k":{}}})",
     "__metadata__ is an object, not text"},
    {"MetadataTwice", R"({"__metadata__":{},"__metadata__":{}})",
     "\"__metadata__\" occurs twice"},
};
const Row kFields[] = {
    {"NameTwice",
     "{" + Placed("a", "[4]", "[0,16]") + "," + Placed("a", "[0]", "[16,16]") +
         "}",
     "tensor \"a\" occurs twice"},
    {"NameEmpty", "{" + Placed("", "[4]", "[0,16]") + "}", "a name of 0 bytes"},
    {"NameLong", "{" + Placed(std::string(1025, 'n'), "[4]", "[0,16]") + "}",
     "a name of 1025 bytes"},
    {"FieldTwice", One(R"("dtype":"F32","dtype":"F32")"),
     "tensor \"a\": dtype occurs twice"},
    {"FieldUnknown", One(R"("strides":[1])"),
     "tensor \"a\" has an unknown field \"strides\""},
    {"NoType", One(R"("shape":[4],"data_offsets":[0,16])"),
     "tensor \"a\" has no dtype"},
    {"NoShape", One(R"("dtype":"F32","data_offsets":[0,16])"),
     "tensor \"a\" has no shape"},
    {"NoOffsets", One(R"("dtype":"F32","shape":[4])"),
     "tensor \"a\" has no data_offsets"},
    {"TypeIsNumber", One(R"("dtype":1)"), "tensor \"a\": dtype is 1, not text"},
    {"TypeLong", One(R"("dtype":"F32F32F32F32F32F32")"),
     "longer than 16 bytes"},
    {"ShapeIsNumber", One(R"("shape":4)"),
     "tensor \"a\": shape is 4, not an array of sizes"},
    {"ShapeNegative", One(R"("shape":[-4])"), "shape is -4, not a natural"},
    {"ShapeReal", One(R"("shape":[4.5])"), "shape is 4.5, not a natural"},
    {"ShapeText", One(R"("shape":["4"])"), "shape is text, not a natural"},
    {"ShapeLargest", One(R"("shape":[18446744073709551615])"),
     "has the size 18446744073709551615, more than 2^63 - 1"},
    {"ShapeOfNine", One(R"("shape":[1,1,1,1,1,1,1,1,1])"),
     "has more than 8 dimensions"},
    {"OffsetsNegative", One(R"("data_offsets":[-1,15])"),
     "data_offsets is -1, not a natural number"},
    {"OneOffset", One(R"("dtype":"F32","shape":[4],"data_offsets":[0])"),
     "are not a beginning and an end"},
    {"ThreeOffsets", One(R"("data_offsets":[0,1,2])"),
     "has more than two elements"},
    {"OffsetsSwapped", "{" + Placed("a", "[4]", "[16,0]") + "}",
     "are not a beginning and an end"},
};
const Row kSizes[] = {
    {"TooFewBytes", "{" + Placed("a", "[5]", "[0,16]") + "}",
     "of shape [5] and type F32 takes 20 bytes, but its data_offsets hold 16"},
    {"TooManyBytes", "{" + Placed("a", "[3]", "[0,16]") + "}",
     "takes 12 bytes, but its data_offsets hold 16"},
    {"ProductWraps",
     "{" + Placed("a", "[4294967296,4294967296]", "[0,16]") + "}",
     "is larger than 2^63 - 1 bytes"},
    {"ProductWrapsToSixteen",
     "{" + Placed("a", "[4611686018427387908,1]", "[0,16]") + "}",
     "is larger than 2^63 - 1 bytes"},
    {"EndsAfterTheFile", "{" + Placed("a", "[8]", "[0,32]") + "}",
     "tensor \"a\" ends at byte 32 of the data section, which has 16"},
    {"FarAfterTheFile",
     "{" + Placed("a", "[4]", "[18446744073709551599,18446744073709551615]") +
         "}",
     "ends at byte 18446744073709551615"},
    {"Overlap",
     "{" + Placed("a", "[3]", "[0,12]") + "," + Placed("b", "[2]", "[8,16]") +
         "}",
     "tensor \"a\" and tensor \"b\" overlap at offset 8"},
    {"SamePlace",
     "{" + Placed("a", "[4]", "[0,16]") + "," + Placed("b", "[4]", "[0,16]") +
         "}",
     "overlap at offset 0"},
    {"EmptyInsideAnother",
     "{" + Placed("a", "[4]", "[0,16]") + "," + Placed("b", "[0]", "[8,8]") +
         "}",
     "overlap at offset 8"},
    {"HoleBefore", "{" + Placed("a", "[3]", "[4,16]") + "}",
     "bytes 0 to 4 of the data section belong to no tensor"},
    {"HoleBetween",
     "{" + Placed("a", "[1]", "[0,4]") + "," + Placed("b", "[2]", "[8,16]") +
         "}",
     "bytes 4 to 8 of the data section belong to no tensor"},
    {"HoleAfter", "{" + Placed("a", "[3]", "[0,12]") + "}",
     "bytes 12 to 16 of the data section belong to no tensor"},
    {"NothingAtAll", "{}", "bytes 0 to 16 of the data section"},
};

std::string NameOf(const ::testing::TestParamInfo<Row>& info) {
  return info.param.name;
}
INSTANTIATE_TEST_SUITE_P(Json, SafetensorsHeaderTest,
                         ::testing::ValuesIn(kJson), NameOf);
INSTANTIATE_TEST_SUITE_P(Fields, SafetensorsHeaderTest,
                         ::testing::ValuesIn(kFields), NameOf);
INSTANTIATE_TEST_SUITE_P(Sizes, SafetensorsHeaderTest,
                         ::testing::ValuesIn(kSizes), NameOf);

}  // namespace
}  // namespace sparseserve
