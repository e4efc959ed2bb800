// Products of few rows against double precision: odd sizes, every number of
// rows, both types of output; NaN beside what belongs to the product; a row's
// bits whatever is beside it.

#include "engine/backend/cuda/few_rows_product.h"

#include <cmath>
#include <cstdint>
#include <memory>
#include <random>
#include <vector>

#include "tests/engine/backend/cuda/device_array.h"
#include "tests/engine/backend/cuda/row_values.h"
#include "tests/engine/backend/cuda/test_report.h"

namespace sparseserve::cuda {
namespace {

struct Sizes {
  int rows, inputs, outputs;
};

class FewRowsProductTest {
 public:
  FewRowsProductTest(const FewRowsProduct& product, TestReport& report)
      : product_(product), report_(report) {}

  void Multiplies(const Sizes& sizes, bool is_bf16, bool accumulates) {
    const auto [rows, inputs, outputs] = sizes;
    // Strides leave NaN between the rows, and 99 between those of the output.
    const int input_stride = inputs + 16, output_stride = outputs + 3;
    auto input = RandomBfloat16s(kMaxProductRows * input_stride, 1, random_);
    for (int r = 0; r < kMaxProductRows; ++r) {
      for (int i = r < rows ? inputs : 0; i < input_stride; ++i) {
        input[r * input_stride + i] = kBfloat16Nan;
      }
    }
    auto weight =
        RandomBfloat16s(std::int64_t{outputs} * inputs, 0.1f, random_);
    weight.resize(weight.size() + 4096, kBfloat16Nan);
    const std::vector<float> old(kMaxProductRows * output_stride, 99.0f);
    const DeviceArray<std::uint16_t> device_input(input), device_weight(weight),
        rounded(std::vector<std::uint16_t>(old.size(), ToBfloat16(99.0f)));
    const DeviceArray<float> output(old);
    FewRowsProductArgs args;
    args.rows = rows;
    args.input = device_input.data();
    args.input_stride = input_stride;
    args.weight = device_weight.data();
    args.inputs = inputs;
    args.outputs = outputs;
    args.output = is_bf16 ? static_cast<void*>(rounded.data()) : output.data();
    args.output_stride = output_stride;
    args.output_is_bf16 = is_bf16;
    args.accumulates = accumulates;
    const LaunchStatus status = product_.Run(args, nullptr);
    report_.Expect(status.ok(), "%s", status.message().c_str());
    report_.ExpectOk(cudaDeviceSynchronize(), "product");
    std::vector<float> results = output.Download();
    if (is_bf16) {
      const auto bits = rounded.Download();
      for (std::size_t i = 0; i < bits.size(); ++i) {
        results[i] = FromBfloat16(bits[i]);
      }
    }
    long wrong = 0;
    for (int r = 0; r < kMaxProductRows; ++r) {
      for (int n = 0; n < output_stride; ++n) {
        const float result = results[r * output_stride + n];
        if (r >= rows || n >= outputs) {
          wrong += result != 99.0f;
          continue;
        }
        double expected = accumulates ? 99 : 0;
        double magnitude = expected;
        for (int k = 0; k < inputs; ++k) {
          const double term =
              double{FromBfloat16(input[r * input_stride + k])} *
              FromBfloat16(weight[std::int64_t{n} * inputs + k]);
          expected += term;
          magnitude += std::abs(term);
        }
        wrong += is_bf16 ? !IsNearBfloat16(result, expected, magnitude)
                         : !IsNearFloat(result, expected, magnitude);
      }
    }
    report_.Expect(wrong == 0,
                   "rows %d inputs %d outputs %d bf16 %d accumulates %d: %ld "
                   "wrong",
                   rows, inputs, outputs, is_bf16, accumulates, wrong);
  }

  // Row 0 alone, and beside 15 others; twice.
  void GivesRowsTheirBits(int inputs, int outputs) {
    const DeviceArray<std::uint16_t> input(
        RandomBfloat16s(16 * inputs, 1, random_)),
        weight(RandomBfloat16s(std::int64_t{outputs} * inputs, 1, random_));
    const auto run = [&](int rows) {
      const DeviceArray<float> output(16 * outputs);
      FewRowsProductArgs args;
      args.rows = rows;
      args.input = input.data();
      args.input_stride = args.inputs = inputs;
      args.weight = weight.data();
      args.output = output.data();
      args.output_stride = args.outputs = outputs;
      report_.Expect(product_.Run(args, nullptr).ok(), "product");
      std::vector<float> results = output.Download();
      results.resize(outputs);
      return results;
    };
    const std::vector<float> alone = run(1);
    for (int rows : {1, 3, 8, 9, 16}) {
      report_.Expect(run(rows) == alone, "%d rows: row 0 has other bits", rows);
    }
  }

  void RefusesByName() {
    const DeviceArray<float> room(64);
    const auto refuses = [&](const char* name, const auto& change) {
      FewRowsProductArgs args;
      args.rows = 1;
      args.input = args.weight = room.data();
      args.output = room.data();
      args.input_stride = args.inputs = 8;
      args.output_stride = args.outputs = 1;
      change(args);
      const LaunchStatus status = product_.Run(args, nullptr);
      report_.Expect(status.message().find(name) != std::string::npos,
                     "%s is not named: %s", name, status.message().c_str());
    };
    refuses("rows is 17", [](auto& args) { args.rows = 17; });
    refuses("inputs is 12", [](auto& args) { args.inputs = 12; });
    refuses("outputs is 0", [](auto& args) { args.outputs = 0; });
    refuses("input_stride is 4", [](auto& args) { args.input_stride = 4; });
    refuses("output_stride is 0", [](auto& args) { args.output_stride = 0; });
    refuses("accumulates",
            [](auto& args) { args.accumulates = args.output_is_bf16 = true; });
    refuses("output", [](auto& args) { args.output = nullptr; });
    refuses("weight", [](auto& args) { args.weight = nullptr; });
  }

 private:
  const FewRowsProduct& product_;
  TestReport& report_;
  std::mt19937 random_{20261130};
};

void RunAll(FewRowsProductTest& test) {
  for (int rows = 1; rows <= kMaxProductRows; ++rows) {
    test.Multiplies({rows, 576, 200}, rows % 2 == 0, rows % 2 == 1);
  }
  for (int rows : {1, 7, 8, 9, 16}) {
    for (int inputs : {8, 56, 64, 72, 520, 1536, 4104}) {
      for (int outputs : {1, 15, 16, 33, 130}) {
        test.Multiplies({rows, inputs, outputs}, false, outputs % 2 == 0);
        test.Multiplies({rows, inputs, outputs}, true, false);
      }
    }
  }
  // More tiles than thread blocks.
  for (int rows : {1, 13}) test.Multiplies({rows, 136, 20001}, false, true);
  test.GivesRowsTheirBits(4096, 1000);
  test.GivesRowsTheirBits(72, 17);
  test.RefusesByName();
}

}  // namespace
}  // namespace sparseserve::cuda

int main() {
  using namespace sparseserve::cuda;
  if (!HasHopper()) return kSkipped;
  TestReport report;
  std::unique_ptr<FewRowsProduct> product;
  const LaunchStatus status = FewRowsProduct::Create(&product);
  report.Expect(status.ok(), "%s", status.message().c_str());
  if (product != nullptr) {
    FewRowsProductTest test(*product, report);
    RunAll(test);
  }
  return report.Finish("few_rows_product_test");
}
