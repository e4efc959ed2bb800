// Random and systematic damage to a valid GGUF file. Made for sanitizers, which
// see any byte read beyond the file.

#include <cstdint>
#include <cstdio>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "engine/model/gguf_file.h"
#include "engine/model/gguf_tokenizer.h"
#include "gtest/gtest.h"
#include "tests/testing/byte_level_vocabulary.h"
#include "tests/testing/gguf_writer.h"
#include "tests/testing/largest_allocation.h"

namespace sparseserve {
namespace {

using testing::GgufWriter;

constexpr uint64_t kHuge = uint64_t{1} << 60;
constexpr uint64_t kMax = UINT64_MAX;

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
  writer.AddTensor("q", DType::kQ4_1, {64, 2}, std::string(80, 'q'));
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

// Changes, cuts or repeats bytes at one to four random places.
std::string Mutate(const std::string& original, std::mt19937& random) {
  const auto below = [&random](size_t limit) { return random() % limit; };
  std::string bytes = original;
  for (size_t i = below(4) + 1; i > 0 && bytes.size() > 9; --i) {
    const size_t place = below(bytes.size() - 8);
    switch (below(6)) {
      case 0:
        bytes[place] ^= static_cast<char>(1 << below(8));
        break;
      case 1:
        bytes[place] = static_cast<char>(below(256));
        break;
      case 2:
        bytes.resize(place);
        break;
      case 3:
        bytes.erase(place, below(8) + 1);
        break;
      case 4:
        bytes.insert(place, bytes.substr(place, below(16) + 1));
        break;
      default: {
        const uint64_t extremes[] = {0, 1, kHuge, kMax, kMax - 31, 1u << 31};
        std::memcpy(&bytes[place], &extremes[below(6)], 8);
        break;
      }
    }
  }
  return bytes;
}

TEST(GgufMutationTest, EveryMutationIsAnErrorOrAFileThatCanBeReadInFull) {
  const std::string original = FileToMutate();
  const auto unspoiled = GgufFile::Parse(absl::MakeConstSpan(
      reinterpret_cast<const std::byte*>(original.data()), original.size()));
  ASSERT_TRUE(unspoiled.ok()) << unspoiled.status();
  ASSERT_TRUE(LoadTokenizer((*unspoiled)->metadata()).ok());
  std::mt19937 random(20240607);
  int valid = 0;
  int refused = 0;
  testing::ResetLargestAllocation();
  for (int i = 0; i < 20000; ++i) {
    // A copy of exact size, so that a sanitizer sees any byte read beyond it.
    const std::string mutated = Mutate(original, random);
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
  EXPECT_GT(testing::LargestAllocation(), 0);
  EXPECT_LT(testing::LargestAllocation(), 65536) << "bytes in one allocation";
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
