// Rows of an embedding table: exact products in f32, NaN for tokens that there
// are not.

#include "engine/backend/cuda/embedding.h"

#include <cmath>
#include <cstdint>
#include <random>
#include <vector>

#include "tests/engine/backend/cuda/device_array.h"
#include "tests/engine/backend/cuda/row_values.h"
#include "tests/engine/backend/cuda/test_report.h"

namespace sparseserve::cuda {
namespace {

void GathersRows(int rows, int columns, TestReport& report) {
  std::mt19937 random(rows * 31 + columns);
  constexpr int kVocabulary = 97;
  const auto table =
      RandomBfloat16s(std::int64_t{kVocabulary} * columns, 1, random);
  std::vector<std::int32_t> tokens(rows);
  for (std::int32_t& token : tokens) token = random() % kVocabulary;
  tokens[0] = kVocabulary - 1;
  if (rows > 2) tokens[1] = kVocabulary, tokens[2] = -1;
  const DeviceArray<std::uint16_t> device_table(table);
  const DeviceArray<std::int32_t> device_tokens(tokens);
  const DeviceArray<float> output(
      std::vector<float>(std::int64_t{rows} * columns, -7.0f));
  EmbeddingArgs args;
  args.rows = rows;
  args.tokens = device_tokens.data();
  args.table = device_table.data();
  args.vocabulary = kVocabulary;
  args.columns = columns;
  args.scale = 1.7f;
  args.output = output.data();
  const LaunchStatus status = LaunchEmbedding(args, nullptr);
  report.Expect(status.ok(), "%s", status.message().c_str());
  report.ExpectOk(cudaDeviceSynchronize(), "embedding");
  const std::vector<float> results = output.Download();
  long wrong = 0;
  for (int r = 0; r < rows; ++r) {
    const bool exists = tokens[r] >= 0 && tokens[r] < kVocabulary;
    for (int c = 0; c < columns; ++c) {
      const float result = results[std::int64_t{r} * columns + c];
      wrong +=
          exists ? result != FromBfloat16(table[tokens[r] * columns + c]) * 1.7f
                 : !std::isnan(result);
    }
  }
  report.Expect(wrong == 0, "rows %d columns %d: %ld wrong", rows, columns,
                wrong);
}

void RefusesByName(TestReport& report) {
  const DeviceArray<float> room(64);
  EmbeddingArgs args;
  args.rows = 1;
  args.tokens = reinterpret_cast<const std::int32_t*>(room.data());
  args.table = room.data();
  args.vocabulary = 1;
  args.columns = 12;
  args.output = room.data();
  const auto refuses = [&](const char* name) {
    const LaunchStatus status = LaunchEmbedding(args, nullptr);
    report.Expect(status.message().find(name) != std::string::npos,
                  "%s is not named: %s", name, status.message().c_str());
  };
  refuses("columns is 12");
  args.columns = 8;
  args.vocabulary = 0;
  refuses("vocabulary is 0");
  args.vocabulary = 1;
  args.rows = -1;
  refuses("rows is -1");
  args.rows = 1;
  args.output = room.data() + 1;
  refuses("aligned");
}

}  // namespace
}  // namespace sparseserve::cuda

int main() {
  using namespace sparseserve::cuda;
  if (!HasHopper()) return kSkipped;
  TestReport report;
  for (int columns : {8, 576, 2048, 4096, 4104}) {
    for (int rows : {1, 3, 129}) GathersRows(rows, columns, report);
  }
  GathersRows(65536, 64, report);
  RefusesByName(report);
  return report.Finish("embedding_test");
}
