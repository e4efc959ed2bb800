// Gated activations and the cap of logits against double precision, also where
// exponentials overflow.

#include "engine/backend/cuda/gated_activation.h"

#include <cmath>
#include <cstdint>
#include <random>
#include <vector>

#include "tests/engine/backend/cuda/device_array.h"
#include "tests/engine/backend/cuda/row_values.h"
#include "tests/engine/backend/cuda/test_report.h"

namespace sparseserve::cuda {
namespace {

double Silu(double x) { return x / (1 + std::exp(-x)); }
double Gelu(double x) {
  return x /
         (1 + std::exp(-2 * std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
}

void Activates(int rows, int columns, bool gelu, TestReport& report) {
  std::mt19937 random(rows + columns);
  auto input = RandomBfloat16s(std::int64_t{rows} * 2 * columns, 3, random);
  const float extremes[] = {0, -300, 300, -88, 88, -20, 20};
  for (int i = 0; i < 7; ++i) input[i] = ToBfloat16(extremes[i]);
  const DeviceArray<std::uint16_t> gate_up(input);
  const DeviceArray<std::uint16_t> output(
      std::vector<std::uint16_t>(std::int64_t{rows} * columns, kBfloat16Nan));
  GatedActivationArgs args;
  args.rows = rows;
  args.columns = columns;
  args.gate_up = gate_up.data();
  args.output = output.data();
  const LaunchStatus status =
      gelu ? LaunchGeGlu(args, nullptr) : LaunchSwiGlu(args, nullptr);
  report.Expect(status.ok(), "%s", status.message().c_str());
  report.ExpectOk(cudaDeviceSynchronize(), "gated activation");
  const auto results = output.Download();
  long wrong = 0;
  for (std::int64_t r = 0; r < rows; ++r) {
    for (int c = 0; c < columns; ++c) {
      const double gate = FromBfloat16(input[r * 2 * columns + c]);
      const double up = FromBfloat16(input[r * 2 * columns + columns + c]);
      const double expected = (gelu ? Gelu(gate) : Silu(gate)) * up;
      // Fast exponentials lose with the size of their argument, which is 88
      // where they overflow: 88 times 2^-24, and a few roundings more.
      wrong += !IsNearBfloat16(FromBfloat16(results[r * columns + c]), expected,
                               5 * std::abs(expected));
    }
  }
  report.Expect(wrong == 0, "rows %d columns %d gelu %d: %ld wrong", rows,
                columns, gelu, wrong);
}

void Caps(std::int64_t count, TestReport& report) {
  std::mt19937 random(static_cast<unsigned>(count));
  const auto input = RandomFloats(count, 40, random);
  const DeviceArray<float> values(input);
  const LaunchStatus status =
      LaunchSoftCap({30.0f, count, values.data()}, nullptr);
  report.Expect(status.ok(), "%s", status.message().c_str());
  report.ExpectOk(cudaDeviceSynchronize(), "soft cap");
  const auto results = values.Download();
  long wrong = 0;
  for (std::int64_t i = 0; i < count; ++i) {
    wrong +=
        !(std::abs(results[i] - 30 * std::tanh(input[i] / 30.0)) <= 30 * 4e-7);
  }
  report.Expect(wrong == 0, "cap of %ld: %ld wrong", static_cast<long>(count),
                wrong);
}

void RefusesByName(TestReport& report) {
  const DeviceArray<float> room(64);
  GatedActivationArgs args;
  args.rows = 1;
  args.columns = 4;
  args.gate_up = room.data();
  args.output = room.data();
  const auto refuses = [&](const LaunchStatus& status, const char* name) {
    report.Expect(status.message().find(name) != std::string::npos,
                  "%s is not named: %s", name, status.message().c_str());
  };
  refuses(LaunchSwiGlu(args, nullptr), "columns is 4");
  args.columns = 8;
  args.rows = -1;
  refuses(LaunchGeGlu(args, nullptr), "rows is -1");
  args.rows = 1;
  args.gate_up = nullptr;
  refuses(LaunchSwiGlu(args, nullptr), "gate_up");
  refuses(LaunchSoftCap({0.0f, 8, room.data()}, nullptr), "cap is 0");
  refuses(LaunchSoftCap({1.0f, -8, room.data()}, nullptr), "count is -8");
}

}  // namespace
}  // namespace sparseserve::cuda

int main() {
  using namespace sparseserve::cuda;
  if (!HasHopper()) return kSkipped;
  TestReport report;
  for (int columns : {8, 1536, 2056, 14336}) {
    for (int rows : {1, 3, 65}) {
      Activates(rows, columns, false, report);
      Activates(rows, columns, true, report);
    }
  }
  Activates(65536, 64, false, report);
  for (std::int64_t count : {1, 7, 1024, 1025, 49152 * 3 + 2}) {
    Caps(count, report);
  }
  RefusesByName(report);
  return report.Finish("gated_activation_test");
}
