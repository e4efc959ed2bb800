// What lying, broken and hostile GGUF files get: an error that names the thing,
// and no memory to speak of.

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "engine/base/str_cat.h"
#include "engine/model/gguf_file.h"
#include "engine/model/gguf_tokenizer.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/testing/byte_level_vocabulary.h"
#include "tests/testing/gguf_writer.h"
#include "tests/testing/largest_request.h"
#include "tests/testing/mutation.h"
#include "tests/testing/sentence_piece_vocabulary.h"

namespace sparseserve {
namespace {

using testing::AppendGgufString;
using testing::AppendRaw;
using testing::GgufWriter;
using ::testing::HasSubstr;

constexpr uint64_t kHuge = uint64_t{1} << 60;
constexpr uint64_t kMax = UINT64_MAX;

// A small file in parts, each of which a case can spoil.
struct RawFile {
  std::string magic = "GGUF";
  uint32_t version = 3;
  uint64_t tensors = 0;
  uint64_t pairs = 0;
  std::string metadata;
  std::string directory;
  std::string data = std::string(128, '\1');
  size_t cut = 0;  // bytes missing at the end

  RawFile& Pair(std::string_view key, uint32_t type) {
    AppendGgufString(metadata, key);
    AppendRaw(metadata, type);
    ++pairs;
    return *this;
  }
  template <typename T>
  RawFile& Value(T value) {
    AppendRaw(metadata, value);
    return *this;
  }
  RawFile& Array(std::string_view key, uint32_t element_type, uint64_t count) {
    return Pair(key, 9).Value(element_type).Value(count);
  }
  RawFile& Tensor(std::string_view name, const std::vector<uint64_t>& shape,
                  uint32_t type, uint64_t offset) {
    AppendGgufString(directory, name);
    AppendRaw<uint32_t>(directory, shape.size());
    for (const uint64_t size : shape) AppendRaw(directory, size);
    AppendRaw(directory, type);
    AppendRaw(directory, offset);
    ++tensors;
    return *this;
  }

  std::string Bytes() const {
    std::string bytes = magic;
    AppendRaw(bytes, version);
    AppendRaw(bytes, tensors);
    AppendRaw(bytes, pairs);
    bytes += metadata + directory;
    if (!data.empty()) bytes.resize((bytes.size() + 31) / 32 * 32);
    bytes += data;
    bytes.resize(bytes.size() - cut);
    return bytes;
  }
};

absl::StatusOr<std::unique_ptr<GgufFile>> Parse(const std::string& bytes) {
  return GgufFile::Parse(absl::MakeConstSpan(
      reinterpret_cast<const std::byte*>(bytes.data()), bytes.size()));
}

struct Corruption {
  std::string name;
  std::function<void(RawFile&)> spoil;
  std::string message;  // part of what the error says
};

// The table's cases start from two tensors: "a", F32 [8], and "b", Q8_0
// [32, 2], in 32 and 68 of 128 bytes.
RawFile TwoTensors() {
  return RawFile().Tensor("a", {8}, 0, 0).Tensor("b", {32, 2}, 8, 32);
}

std::vector<Corruption> Headers() {
  return {
      {"Empty", [](RawFile& f) { f.cut = f.Bytes().size(); }, "the magic"},
      {"CutInMagic", [](RawFile& f) { f.cut = f.Bytes().size() - 3; },
       "the magic needs 4 bytes at offset 0"},
      {"CutInVersion", [](RawFile& f) { f.cut = f.Bytes().size() - 6; },
       "the version"},
      {"CutInTensorCount", [](RawFile& f) { f.cut = f.Bytes().size() - 12; },
       "the number of tensors"},
      {"CutInPairCount", [](RawFile& f) { f.cut = f.Bytes().size() - 17; },
       "the number of metadata pairs"},
      {"OtherMagic", [](RawFile& f) { f.magic = "GGML"; }, "not a GGUF file"},
      {"SwappedMagic", [](RawFile& f) { f.magic = "FUGG"; }, "big-endian"},
      {"SwappedVersion", [](RawFile& f) { f.version = 0x03000000; },
       "big-endian"},
      {"Version0", [](RawFile& f) { f.version = 0; }, "GGUF version 0"},
      {"Version1", [](RawFile& f) { f.version = 1; }, "GGUF version 1"},
      {"Version4", [](RawFile& f) { f.version = 4; }, "GGUF version 4"},
      {"HugePairCount", [](RawFile& f) { f.pairs = kHuge; },
       "claims 1152921504606846976 metadata pairs"},
      {"LargestPairCount", [](RawFile& f) { f.pairs = kMax; }, "claims"},
      {"HugeTensorCount", [](RawFile& f) { f.tensors = kHuge; },
       "claims 1152921504606846976 tensors"},
      {"OneTensorTooMany", [](RawFile& f) { f.tensors = 3; }, "tensor 2 has"},
  };
}

std::vector<Corruption> Keys() {
  return {
      {"KeyLongerThanFile",
       [](RawFile& f) { f.pairs = 1, f.Value(kMax).Value(kMax); },
       "metadata pair 0 needs 18446744073709551615 bytes"},
      {"EmptyKey", [](RawFile& f) { f.Pair("", 0).Value(uint8_t{1}); },
       "key of 0 bytes"},
      {"LongKey",
       [](RawFile& f) { f.Pair(std::string(65536, 'k'), 0).Value(uint8_t{1}); },
       "key of 65536 bytes"},
      {"KeyTwice",
       [](RawFile& f) {
         f.Pair("k", 0).Value(uint8_t{1}).Pair("k", 0).Value(uint8_t{1});
       },
       "metadata key \"k\" occurs twice"},
      {"UnknownType", [](RawFile& f) { f.Pair("k", 13).Value(kMax); },
       "metadata key \"k\" has unknown value type 13"},
      {"LargestType", [](RawFile& f) { f.Pair("k", 0xffffffff).Value(kMax); },
       "unknown value type 4294967295"},
      {"BoolOfTwo", [](RawFile& f) { f.Pair("k", 7).Value(uint8_t{2}); },
       "holds 2 where a bool"},
      {"BoolArrayWithSeven",
       [](RawFile& f) {
         f.Array("k", 7, 2).Value(uint8_t{1}).Value(uint8_t{7});
       },
       "holds 7 where a bool"},
      {"StringLongerThanFile", [](RawFile& f) { f.Pair("k", 8).Value(kHuge); },
       "metadata key \"k\" needs 1152921504606846976 bytes"},
      {"LargestString", [](RawFile& f) { f.Pair("k", 8).Value(kMax); },
       "metadata key \"k\" needs 18446744073709551615 bytes"},
      {"ValueCutOff",
       [](RawFile& f) {
         f.tensors = 0, f.directory.clear(), f.data.clear();
         f.Pair("k", 10).Value(uint32_t{1});
       },
       "metadata key \"k\" needs 8 bytes"},
      {"KeyIsEscaped", [](RawFile& f) { f.Pair("\xff\n", 13).Value(kMax); },
       "metadata key \"\\xff\\n\""},
  };
}

std::vector<Corruption> Arrays() {
  return {
      {"UnknownElementType", [](RawFile& f) { f.Array("k", 13, 1); },
       "unknown value type 13"},
      {"HugeBytes", [](RawFile& f) { f.Array("k", 0, kHuge); },
       "claims 1152921504606846976 elements"},
      {"HugeStrings", [](RawFile& f) { f.Array("k", 8, kHuge); },
       "claims 1152921504606846976 elements"},
      {"HugeArrays", [](RawFile& f) { f.Array("k", 9, kHuge); }, "claims"},
      {"SizeWraps", [](RawFile& f) { f.Array("k", 10, uint64_t{1} << 61); },
       "claims"},
      {"LargestCount", [](RawFile& f) { f.Array("k", 12, kMax); }, "claims"},
      {"MoreNumbersThanBytes", [](RawFile& f) { f.Array("k", 10, 40); },
       "metadata key \"k\" needs 320 bytes"},
      {"MoreStringsThanBytes", [](RawFile& f) { f.Array("k", 8, 100); },
       "metadata key \"k\""},
      {"LongStringInArray", [](RawFile& f) { f.Array("k", 8, 1).Value(kMax); },
       "metadata key \"k\" needs 18446744073709551615 bytes"},
      {"NestedTooDeep",
       [](RawFile& f) {
         f.Array("k", 9, 1);
         for (int i = 0; i < 4; ++i) f.Value(uint32_t{9}).Value(uint64_t{1});
       },
       "nests arrays deeper than 4"},
      {"NestedHuge",
       [](RawFile& f) { f.Array("k", 9, 1).Value(uint32_t{8}).Value(kHuge); },
       "claims 1152921504606846976 elements"},
      {"NestedUnknownType",
       [](RawFile& f) { f.Array("k", 9, 1).Value(uint32_t{99}).Value(kHuge); },
       "unknown value type 99"},
  };
}

std::vector<Corruption> TensorEntries() {
  return {
      {"NameLongerThanFile",
       [](RawFile& f) { AppendRaw(f.directory, kMax), ++f.tensors; },
       "tensor 2"},
      {"EmptyName", [](RawFile& f) { f.Tensor("", {8}, 0, 64); },
       "tensor 2 has a name of 0 bytes"},
      {"LongName",
       [](RawFile& f) { f.Tensor(std::string(1025, 'n'), {8}, 0, 64); },
       "tensor 2 has a name of 1025 bytes"},
      {"NameTwice", [](RawFile& f) { f.Tensor("a", {8}, 0, 96); },
       "tensor \"a\" occurs twice"},
      {"NoDimensions", [](RawFile& f) { f.Tensor("c", {}, 0, 96); },
       "tensor \"c\" has 0 dimensions"},
      {"FiveDimensions",
       [](RawFile& f) {
         f.Tensor("c", {1, 1, 1, 1, 1}, 0, 96);
       },
       "tensor \"c\" has 5 dimensions"},
      {"LargestDimensions",
       [](RawFile& f) {
         AppendGgufString(f.directory, "c");
         AppendRaw(f.directory, uint32_t{0xffffffff});
         f.directory.resize(f.directory.size() + 64);
         ++f.tensors;
       },
       "tensor \"c\" has 4294967295 dimensions"},
      {"DimensionZero",
       [](RawFile& f) {
         f.Tensor("c", {8, 0}, 0, 96);
       },
       "tensor \"c\" has 0 as dimension 1"},
      {"DimensionLargest", [](RawFile& f) { f.Tensor("c", {kMax}, 0, 96); },
       "tensor \"c\" has 18446744073709551615 as dimension 0"},
      {"DimensionNegative",
       [](RawFile& f) { f.Tensor("c", {uint64_t{1} << 63}, 0, 96); },
       "as dimension 0"},
      {"ProductWraps",
       [](RawFile& f) {
         f.Tensor("c", {uint64_t{1} << 32, uint64_t{1} << 32}, 0, 96);
       },
       "tensor \"c\" has 4294967296 as dimension 1"},
      {"ProductWrapsToSmall",
       [](RawFile& f) {
         f.Tensor("c", {(uint64_t{1} << 63) - 1, 3, 1, 1}, 0, 96);
       },
       "tensor \"c\" has 3 as dimension 1"},
      {"BytesWrap",
       [](RawFile& f) { f.Tensor("c", {uint64_t{1} << 62}, 0, 96); },
       "of shape [4611686018427387904] is larger than 2^64 bytes"},
      {"RowsNotWholeBlocks", [](RawFile& f) { f.Tensor("c", {33}, 8, 96); },
       "rows of 33 elements, not a multiple of the 32 in a block of Q8_0"},
      {"BlocksAcrossRows",
       [](RawFile& f) {
         f.Tensor("c", {16, 2}, 2, 96);
       },
       "rows of 16 elements, not a multiple of the 32 in a block of Q4_0"},
      {"RowsNotWholeSuperBlocks",
       [](RawFile& f) {
         f.Tensor("c", {128, 2}, 12, 96);
       },
       "rows of 128 elements, not a multiple of the 256 in a block of Q4_K"},
  };
}

std::vector<Corruption> Placements() {
  return {
      {"Misaligned", [](RawFile& f) { f.Tensor("c", {1}, 0, 100); },
       "tensor \"c\" begins at offset 100, not a multiple of the alignment 32"},
      {"BeginsAfterTheEnd", [](RawFile& f) { f.Tensor("c", {1}, 0, 160); },
       "tensor \"c\" takes 4 bytes at offset 160, but the data section has "
       "128"},
      {"EndsAfterTheEnd", [](RawFile& f) { f.Tensor("c", {9}, 0, 96); },
       "tensor \"c\" takes 36 bytes at offset 96, but the data"},
      {"UnreadTypeAfterTheEnd",
       [](RawFile& f) { f.Tensor("c", {256}, 10, 4096); },
       "tensor \"c\" takes 0 bytes at offset 4096"},
      {"OffsetWraps", [](RawFile& f) { f.Tensor("c", {16}, 0, kMax - 31); },
       "tensor \"c\" takes 64 bytes at offset 18446744073709551584"},
      {"HugeTensor",
       [](RawFile& f) { f.Tensor("c", {uint64_t{1} << 50}, 0, 96); },
       "tensor \"c\" takes 4503599627370496 bytes"},
      {"SameOffset", [](RawFile& f) { f.Tensor("c", {1}, 0, 0); },
       "overlap at offset 0"},
      {"SameOffsetUnreadTypes",
       [](RawFile& f) {
         f.Tensor("c", {256}, 10, 128).Tensor("d", {256}, 11, 128);
       },
       "overlap at offset 128"},
      {"Overlap", [](RawFile& f) { f.Tensor("c", {1}, 0, 64); },
       "tensor \"b\" and tensor \"c\" overlap at offset 64"},
      {"DataCutByOne", [](RawFile& f) { f.cut = 29; },
       "tensor \"b\" takes 68 bytes at offset 32, but the data section has 99"},
      {"NoData", [](RawFile& f) { f.data.clear(); }, "before its tensor data"},
      {"AlignmentZero",
       [](RawFile& f) { f.Pair("general.alignment", 4).Value(uint32_t{0}); },
       "general.alignment is 0"},
      {"AlignmentOdd",
       [](RawFile& f) { f.Pair("general.alignment", 4).Value(uint32_t{24}); },
       "general.alignment is 24, not a power of two"},
      {"AlignmentSmall",
       [](RawFile& f) { f.Pair("general.alignment", 4).Value(uint32_t{4}); },
       "general.alignment is 4"},
      {"AlignmentHuge",
       [](RawFile& f) {
         f.Pair("general.alignment", 4).Value(uint32_t{1} << 31);
       },
       "general.alignment is 2147483648"},
      {"AlignmentNoInteger",
       [](RawFile& f) { f.Pair("general.alignment", 6).Value(32.0f); },
       "metadata key \"general.alignment\" is float32, not an integer"},
  };
}

class GgufCorruptionTest : public ::testing::TestWithParam<Corruption> {};

TEST_P(GgufCorruptionTest, IsAnErrorThatNamesTheThing) {
  RawFile file = TwoTensors();
  ASSERT_TRUE(Parse(file.Bytes()).ok());
  GetParam().spoil(file);
  const std::string bytes = file.Bytes();

  testing::ForgetRequests();
  const auto parsed = Parse(bytes);
  const size_t largest = testing::LargestRequest();

  ASSERT_FALSE(parsed.ok());
  EXPECT_EQ(parsed.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(parsed.status().message()),
              HasSubstr(GetParam().message));
  EXPECT_LT(largest, 4096) << "bytes in one allocation";
}

std::string NameOf(const ::testing::TestParamInfo<Corruption>& info) {
  return info.param.name;
}
INSTANTIATE_TEST_SUITE_P(Header, GgufCorruptionTest,
                         ::testing::ValuesIn(Headers()), NameOf);
INSTANTIATE_TEST_SUITE_P(Key, GgufCorruptionTest, ::testing::ValuesIn(Keys()),
                         NameOf);
INSTANTIATE_TEST_SUITE_P(Array, GgufCorruptionTest,
                         ::testing::ValuesIn(Arrays()), NameOf);
INSTANTIATE_TEST_SUITE_P(Entry, GgufCorruptionTest,
                         ::testing::ValuesIn(TensorEntries()), NameOf);
INSTANTIATE_TEST_SUITE_P(Placement, GgufCorruptionTest,
                         ::testing::ValuesIn(Placements()), NameOf);

// A file with everything that the reader looks at.
std::string FileToMutate() {
  GgufWriter writer;
  writer.Add("general.architecture", std::string("llama"));
  writer.Add("count", uint32_t{30});
  writer.Add("ratio", 0.5f);
  writer.Add("wide", int64_t{-1});
  writer.Add("flag", true);
  writer.Add("numbers", std::vector<int32_t>{1, 2, 3});
  writer.Add("ratios", std::vector<float>{1, 2});
  testing::AddVocabulary(testing::ByteLevelVocabulary({"a b"}), writer);
  writer.Add("tokenizer.chat_template",
             std::string("{{ '<|im_start|>system\nHi<|im_end|>' }}"));
  for (const DType dtype : kAllDTypes) {
    const uint64_t columns = std::max(BlockElements(dtype), 64);
    const int64_t blocks = 2 * columns / BlockElements(dtype);
    writer.AddTensor(StrCat("q", DTypeName(dtype)), dtype, {columns, 2},
                     std::string(blocks * BlockBytes(dtype), 'q'));
  }
  writer.AddFloats("norm", 0, 8, std::vector<float>(8, 1.0f));
  return writer.Build();
}

// Reads all that a file offers; the sum only keeps the reads alive.
int64_t ReadAll(const GgufFile& file) {
  int64_t sum = file.file_bytes();
  const GgufMetadata& metadata = file.metadata();
  for (const char* key :
       {"general.architecture", "count", "ratio", "wide", "flag", "numbers",
        "ratios", "tokenizer.ggml.tokens", "tokenizer.ggml.merges"}) {
    sum += metadata.GetUint32(key).ok() + metadata.GetInt64(key).ok() +
           metadata.GetFloat(key).ok() + metadata.GetBool(key).ok() +
           metadata.GetString(key).ok() + metadata.GetInt32Array(key).ok() +
           metadata.GetFloatArray(key).ok();
    if (const auto texts = metadata.GetStringArray(key); texts.ok()) {
      for (const std::string_view text : *texts) sum += text.size();
    }
  }
  for (const GgufTensor& tensor : file.tensors()) {
    sum += file.GetMatrix(tensor.name).ok() + file.GetVector(tensor.name).ok();
    for (uint64_t i = 0; i < tensor.bytes; ++i) {
      sum += std::to_integer<int>(tensor.data[i]);
    }
  }
  return sum + LoadTokenizer(metadata).ok() + LoadChatTemplate(metadata).ok();
}

TEST(GgufMutationTest, EveryMutationIsAnErrorOrAFileThatCanBeReadInFull) {
  const std::string original = FileToMutate();
  const auto unspoiled = Parse(original);
  ASSERT_TRUE(unspoiled.ok()) << unspoiled.status();
  ASSERT_TRUE(LoadTokenizer((*unspoiled)->metadata()).ok());
  const size_t header_bytes = original.find("norm") + 64;
  std::mt19937 random(20240607);
  int valid = 0;
  int refused = 0;
  testing::ForgetRequests();
  for (int i = 0; i < 20000; ++i) {
    // A copy of exact size, so that a sanitizer sees any byte read beyond it.
    const std::string mutated = testing::Mutate(original, header_bytes, random);
    const std::vector<char> bytes(mutated.begin(), mutated.end());
    const auto file = GgufFile::Parse(absl::MakeConstSpan(
        reinterpret_cast<const std::byte*>(bytes.data()), bytes.size()));
    if (file.ok()) {
      ++valid;
      EXPECT_GT(ReadAll(**file), 0);
    } else {
      ++refused;
      EXPECT_FALSE(file.status().message().empty());
    }
  }
  std::printf("%d mutations refused, %d still valid files\n", refused, valid);
  EXPECT_GT(refused, 5000);
  EXPECT_GT(valid, 500);
  EXPECT_LT(testing::LargestRequest(), 65536) << "bytes in one allocation";
}

TEST(GgufMutationTest, EverySentencePieceModelIsRefusedOrWorks) {
  GgufWriter writer;
  testing::AddVocabulary(
      testing::SentencePieceVocabularyOf({"a", "b", "\u2581a", "ab"}), writer);
  const std::string original = writer.Build();
  std::mt19937 random(20251125);
  int works = 0;
  int refused = 0;
  testing::ForgetRequests();
  for (int i = 0; i < 20000; ++i) {
    const std::string mutated = testing::Mutate(original, random);
    const std::vector<char> bytes(mutated.begin(), mutated.end());
    const auto file = GgufFile::Parse(absl::MakeConstSpan(
        reinterpret_cast<const std::byte*>(bytes.data()), bytes.size()));
    if (!file.ok()) continue;
    const auto tokenizer = LoadTokenizer((*file)->metadata());
    if (!tokenizer.ok()) {
      ++refused;
      EXPECT_FALSE(tokenizer.status().message().empty());
      continue;
    }
    ++works;
    const auto tokens = (*tokenizer)->EncodePrompt("ab a\u20ac<s>", true, 99);
    ASSERT_TRUE(tokens.ok()) << tokens.status();
    for (const TokenId token : *tokens) {
      EXPECT_LT(token, (*tokenizer)->vocab_size());
    }
  }
  std::printf("%d mutated tokenizers refused, %d work\n", refused, works);
  EXPECT_GT(refused, 500);
  EXPECT_GT(works, 100);
  EXPECT_LT(testing::LargestRequest(), 65536) << "bytes in one allocation";
}

TEST(GgufMutationTest, EveryTruncationIsRefused) {
  const std::string original = FileToMutate();
  for (size_t length = 0; length < original.size() - 31; ++length) {
    const std::vector<char> bytes(original.begin(), original.begin() + length);
    const auto file = GgufFile::Parse(absl::MakeConstSpan(
        reinterpret_cast<const std::byte*>(bytes.data()), bytes.size()));
    EXPECT_FALSE(file.ok()) << length;
  }
}

}  // namespace
}  // namespace sparseserve
