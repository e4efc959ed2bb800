// Norms of rows against a reference in double precision: odd widths, gathered
// rows, sums into the residual stream.

#include "engine/backend/cuda/rms_norm.h"

#include <cmath>
#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include "tests/engine/backend/cuda/device_array.h"
#include "tests/engine/backend/cuda/row_values.h"
#include "tests/engine/backend/cuda/test_report.h"

namespace sparseserve::cuda {
namespace {

constexpr float kEpsilon = 1e-3f;  // large enough to show

// Of a row, what every element is multiplied by besides its gain.
template <class At>
double FactorOf(int columns, const At& at) {
  double sum = 0;
  for (int c = 0; c < columns; ++c) sum += double{at(c)} * at(c);
  return 1 / std::sqrt(sum / columns + double{kEpsilon});
}

void Norms(int rows, int columns, bool gathers, TestReport& report) {
  std::mt19937 random(rows * 7 + columns);
  const int input_rows = gathers ? rows * 2 + 1 : rows;
  const auto input =
      RandomFloats(std::int64_t{input_rows} * columns, 0.05f, random);
  const auto gain = RandomFloats(columns, 1, random);
  std::vector<std::int32_t> wanted(rows);
  for (int r = 0; r < rows; ++r) {
    wanted[r] = gathers ? static_cast<int>(random() % input_rows) : r;
  }
  const DeviceArray<float> device_input(input), device_gain(gain);
  const DeviceArray<std::int32_t> device_wanted(wanted);
  const DeviceArray<std::uint16_t> output(
      std::vector<std::uint16_t>(std::int64_t{rows} * columns, kBfloat16Nan));
  RmsNormArgs args;
  args.rows = rows;
  args.columns = columns;
  args.input = device_input.data();
  args.input_rows = gathers ? device_wanted.data() : nullptr;
  args.gain = device_gain.data();
  args.epsilon = kEpsilon;
  args.output = output.data();
  const LaunchStatus status = LaunchRmsNorm(args, nullptr);
  report.Expect(status.ok(), "%s", status.message().c_str());
  report.ExpectOk(cudaDeviceSynchronize(), "RmsNorm");
  const auto results = output.Download();
  long wrong = 0;
  for (std::int64_t r = 0; r < rows; ++r) {
    const float* const row = input.data() + std::int64_t{wanted[r]} * columns;
    const double factor = FactorOf(columns, [&](int c) { return row[c]; });
    for (int c = 0; c < columns; ++c) {
      const double expected = row[c] * factor * gain[c];
      wrong += !IsNearBfloat16(FromBfloat16(results[r * columns + c]), expected,
                               std::abs(expected));
    }
  }
  report.Expect(wrong == 0, "rows %d columns %d gathers %d: %ld wrong", rows,
                columns, gathers, wrong);
}

void Adds(int rows, int columns, bool is_bf16, TestReport& report) {
  std::mt19937 random(rows * 7 + columns);
  const std::int64_t count = std::int64_t{rows} * columns;
  std::vector<float> input = RandomFloats(count, 0.05f, random);
  std::vector<std::uint16_t> rounded(count);
  for (std::int64_t i = 0; i < count; ++i) {
    rounded[i] = ToBfloat16(input[i]);
    if (is_bf16) input[i] = FromBfloat16(rounded[i]);
  }
  const auto gain = RandomFloats(columns, 1, random);
  const auto hidden = RandomFloats(count, 1, random);
  const DeviceArray<float> device_input(input), device_gain(gain),
      device_hidden(hidden);
  const DeviceArray<std::uint16_t> device_rounded(rounded);
  AddRmsNormArgs args;
  args.rows = rows;
  args.columns = columns;
  args.input_is_bf16 = is_bf16;
  args.input = is_bf16 ? static_cast<const void*>(device_rounded.data())
                       : device_input.data();
  args.gain = device_gain.data();
  args.epsilon = kEpsilon;
  args.hidden = device_hidden.data();
  const LaunchStatus status = LaunchAddRmsNorm(args, nullptr);
  report.Expect(status.ok(), "%s", status.message().c_str());
  report.ExpectOk(cudaDeviceSynchronize(), "AddRmsNorm");
  const auto results = device_hidden.Download();
  long wrong = 0;
  for (std::int64_t r = 0; r < rows; ++r) {
    const float* const row = input.data() + r * columns;
    const double factor = FactorOf(columns, [&](int c) { return row[c]; });
    for (int c = 0; c < columns; ++c) {
      const double added = row[c] * factor * gain[c];
      const double old = hidden[r * columns + c];
      wrong += !IsNearFloat(results[r * columns + c], old + added,
                            std::abs(old) + std::abs(added));
    }
  }
  report.Expect(wrong == 0, "adds: rows %d columns %d bf16 %d: %ld wrong", rows,
                columns, is_bf16, wrong);
}

void RefusesByName(TestReport& report) {
  const DeviceArray<float> room(64);
  RmsNormArgs args;
  args.rows = 1;
  args.columns = 20;
  args.input = args.gain = room.data();
  args.output = room.data();
  const auto refuses = [&](const char* name) {
    const LaunchStatus status = LaunchRmsNorm(args, nullptr);
    report.Expect(status.message().find(name) != std::string::npos,
                  "%s is not named: %s", name, status.message().c_str());
  };
  refuses("columns is 20");
  args.columns = kMaxNormColumns + 8;
  refuses("columns is 32776");
  args.columns = 8;
  args.epsilon = -1;
  refuses("epsilon is -1");
  args.epsilon = 0;
  args.rows = -2;
  refuses("rows is -2");
  args.rows = 1;
  args.gain = nullptr;
  refuses("gain");
}

}  // namespace
}  // namespace sparseserve::cuda

int main() {
  using namespace sparseserve::cuda;
  if (!HasHopper()) return kSkipped;
  TestReport report;
  for (int columns : {8, 264, 576, 4096, 4104, 5120, 8192, 8200, 32768}) {
    for (int rows : {1, 5, 67}) {
      Norms(rows, columns, false, report);
      Norms(rows, columns, true, report);
      Adds(rows, columns, false, report);
      Adds(rows, columns, true, report);
    }
  }
  Norms(65536, 64, false, report);
  RefusesByName(report);
  return report.Finish("rms_norm_test");
}
