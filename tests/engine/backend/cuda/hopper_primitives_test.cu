// What prefill attention is built of, one at a time: a box that the copy engine
// brings, a product of a warpgroup, a ring of barriers, a quad's transposition.

#include <cmath>
#include <cstdint>
#include <random>
#include <vector>

#include "engine/backend/cuda/hopper_prefill_attention.cuh"
#include "engine/backend/cuda/tensor_map.h"
#include "tests/engine/backend/cuda/bfloat16_bits.h"
#include "tests/engine/backend/cuda/device_array.h"
#include "tests/engine/backend/cuda/test_report.h"

namespace sparseserve::cuda {
namespace {

using Bits = std::vector<std::uint16_t>;

Bits RandomBits(std::size_t count, int seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  Bits bits(count);
  for (std::uint16_t& element : bits) element = ToBfloat16(normal(random));
  return bits;
}

CUtensorMap MapOf(const DeviceArray<std::uint16_t>& data, int rows, int columns,
                  TestReport& report) {
  CUtensorMap map;
  const LaunchStatus status =
      EncodeTensorMap({data.data(), rows, columns, columns}, &map);
  report.Expect(status.ok(), "%s", status.message().c_str());
  return map;
}

// Copies the box at (row, column) and writes shared memory out as it lies.
__global__ void CopyOneBox(const __grid_constant__ CUtensorMap map, int row,
                           int column, std::uint16_t* lying) {
  __shared__ alignas(1024) std::uint16_t box[64 * 64];
  __shared__ Barrier full;
  if (threadIdx.x == 0) {
    full.Init(1);
    PublishBarriers();
    full.ArriveExpecting(sizeof(box));
    CopyBox(&map, row, column, box, full);
  }
  __syncthreads();
  full.Wait(0);
  for (int i = threadIdx.x; i < 64 * 64; i += blockDim.x) lying[i] = box[i];
}

void BoxIsSwizzledAndPaddedWithZeros(TestReport& report) {
  constexpr int kRows = 100, kColumns = 128, kRow = 60, kColumn = 64;
  const Bits matrix = RandomBits(kRows * kColumns, 1);
  const DeviceArray<std::uint16_t> source(matrix);
  const DeviceArray<std::uint16_t> lying(64 * 64);
  CopyOneBox<<<1, 128>>>(MapOf(source, kRows, kColumns, report), kRow, kColumn,
                         lying.data());
  report.ExpectOk(cudaDeviceSynchronize(), "copy of one box");
  const Bits got = lying.Download();
  for (int row = 0; row < 64; ++row) {
    for (int column = 0; column < 64; ++column) {
      const int chunk = (column / 8) ^ (row % 8);
      const int expected =
          kRow + row < kRows
              ? matrix[(kRow + row) * kColumns + kColumn + column]
              : 0;
      report.Expect(got[row * 64 + chunk * 8 + column % 8] == expected,
                    "box element (%d, %d)", row, column);
    }
  }
}

// scores [64, 128] = a * b^T and sums [64, kWidth] = bf16(a) * c, where a is
// [64, 128], b [128, 128] and c [128, kWidth].
template <int kWidth>
__global__ void Multiply(const __grid_constant__ CUtensorMap a,
                         const __grid_constant__ CUtensorMap b,
                         const __grid_constant__ CUtensorMap c,
                         const std::uint16_t* a_elements, float* scores_out,
                         float* sums_out) {
  struct Boxes {
    std::uint16_t a[2][64][64], b[2][128][64], c[kWidth / 64][128][64];
  };
  extern __shared__ unsigned char memory[];
  auto& boxes = *reinterpret_cast<Boxes*>(
      memory + (1024 - SharedAddress(memory) % 1024) % 1024);
  __shared__ Barrier full;
  if (threadIdx.x == 0) {
    full.Init(1);
    PublishBarriers();
    full.ArriveExpecting(sizeof(Boxes));
    for (int i = 0; i < 2; ++i) {
      CopyBox(&a, 0, i * 64, boxes.a[i], full);
      for (int half = 0; half < 2; ++half) {
        CopyBox(&b, half * 64, i * 64, boxes.b[i][half * 64], full);
        if (i < kWidth / 64) {
          CopyBox(&c, half * 64, i * 64, boxes.c[i][half * 64], full);
        }
      }
    }
  }
  __syncthreads();
  full.Wait(0);
  float scores[64], sums[kWidth / 2];
  std::uint32_t left[32];
  const int lane = threadIdx.x % 32;
  const int row = threadIdx.x / 32 * 16 + lane / 4;
  for (int i = 0; i < 64; ++i) scores[i] = NAN;
  for (int i = 0; i < kWidth / 2; ++i) sums[i] = NAN;
#pragma unroll
  for (int i = 0; i < 32; ++i) {
    const auto* pair = a_elements + (row + i % 2 * 8) * 128 + i / 4 * 16 +
                       i / 2 % 2 * 8 + lane % 4 * 2;
    left[i] = pair[0] | (std::uint32_t{pair[1]} << 16);
  }
  FenceProducts();
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    MultiplyByRows(scores, Behind(DescribeBoxes(boxes.a[i / 4], 0), i % 4 * 32),
                   Behind(DescribeBoxes(boxes.b[i / 4], 0), i % 4 * 32), i > 0);
  }
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    MultiplyByColumns(
        sums, left + 4 * i,
        Behind(DescribeBoxes(boxes.c, sizeof(boxes.c[0])), i * 16 * 128),
        i > 0);
  }
  CommitProducts();
  WaitProducts<0>();
  Pin(scores);
  Pin(sums);
#pragma unroll
  for (int i = 0; i < 64; ++i) {
    const int column = i / 4 * 8 + lane % 4 * 2 + i % 2;
    scores_out[(row + i / 2 % 2 * 8) * 128 + column] = scores[i];
    if (i < kWidth / 2) {
      sums_out[(row + i / 2 % 2 * 8) * kWidth + column] = sums[i];
    }
  }
}

template <int kWidth>
void ProductsAreWhatTheyShould(TestReport& report) {
  const Bits a = RandomBits(64 * 128, 2), b = RandomBits(128 * 128, 3),
             c = RandomBits(128 * kWidth, 4);
  const DeviceArray<std::uint16_t> da(a), db(b), dc(c);
  const DeviceArray<float> scores(64 * 128), sums(64 * kWidth);
  constexpr int kBytes = (64 * 128 + 128 * 128 + 128 * kWidth) * 2 + 1024;
  report.ExpectOk(
      cudaFuncSetAttribute(Multiply<kWidth>,
                           cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes),
      "shared memory of products");
  Multiply<kWidth><<<1, 128, kBytes>>>(
      MapOf(da, 64, 128, report), MapOf(db, 128, 128, report),
      MapOf(dc, 128, kWidth, report), da.data(), scores.data(), sums.data());
  report.ExpectOk(cudaDeviceSynchronize(), "products");
  const std::vector<float> got = scores.Download(), got_sums = sums.Download();
  const auto near = [](double expected, float value) {
    return std::abs(expected - value) <= 1e-3;  // NaN is not
  };
  for (int row = 0; row < 64; ++row) {
    for (int column = 0; column < 128; ++column) {
      double score = 0, sum = 0;
      for (int k = 0; k < 128; ++k) {
        const double left = FromBfloat16(a[row * 128 + k]);
        score += left * FromBfloat16(b[column * 128 + k]);
        if (column < kWidth) sum += left * FromBfloat16(c[k * kWidth + column]);
      }
      report.Expect(near(score, got[row * 128 + column]),
                    "score (%d, %d): %g, not %g", row, column,
                    got[row * 128 + column], score);
      if (column < kWidth) {
        report.Expect(near(sum, got_sums[row * kWidth + column]),
                      "sum (%d, %d) of width %d: %g, not %g", row, column,
                      kWidth, got_sums[row * kWidth + column], sum);
      }
    }
  }
}

// Warp 0 hands numbers to warps 1 and 2 through a ring of three; each is late
// at times of its own.
__global__ void HandOver(int count, std::int32_t* received) {
  constexpr int kStages = 3;
  __shared__ volatile std::int32_t ring[kStages];
  __shared__ Barrier full[kStages], empty[kStages];
  if (threadIdx.x == 0) {
    for (int i = 0; i < kStages; ++i) {
      full[i].Init(1);
      empty[i].Init(2);
    }
    PublishBarriers();
  }
  __syncthreads();
  const int warp = threadIdx.x / 32;
  if (threadIdx.x % 32 != 0) return;
  RingPosition<kStages> at;
  for (int i = 0; i < count; ++i) {
    const unsigned mixed = (i * 3 + warp) * 2654435761u;
    if (mixed >> 30 == 0) __nanosleep(mixed % 2000);
    if (warp == 0) {
      empty[at.stage].Wait(at.parity ^ 1);
      ring[at.stage] = i * 7;
      full[at.stage].Arrive();
    } else {
      full[at.stage].Wait(at.parity);
      received[(warp - 1) * count + i] = ring[at.stage];
      empty[at.stage].Arrive();
    }
    at.Advance();
  }
}

void RingHandsOverInOrder(TestReport& report) {
  constexpr int kCount = 1000;
  const DeviceArray<std::int32_t> received(2 * kCount);
  HandOver<<<1, 96>>>(kCount, received.data());
  report.ExpectOk(cudaDeviceSynchronize(), "ring");
  const std::vector<std::int32_t> got = received.Download();
  for (int i = 0; i < 2 * kCount; ++i) {
    report.Expect(got[i] == i % kCount * 7, "number %d: %d", i, got[i]);
  }
}

__global__ void Transpose(std::uint32_t* words) {
  std::uint32_t mine[4];
  for (int i = 0; i < 4; ++i) mine[i] = threadIdx.x * 4 + i;
  TransposeQuad(mine, threadIdx.x);
  for (int i = 0; i < 4; ++i) words[threadIdx.x * 4 + i] = mine[i];
}

void QuadIsTransposed(TestReport& report) {
  const DeviceArray<std::uint32_t> words(32 * 4);
  Transpose<<<1, 32>>>(words.data());
  report.ExpectOk(cudaDeviceSynchronize(), "transposition");
  const std::vector<std::uint32_t> got = words.Download();
  for (int lane = 0; lane < 32; ++lane) {
    for (int i = 0; i < 4; ++i) {
      const unsigned expected = (lane / 4 * 4 + i) * 4 + lane % 4;
      report.Expect(got[lane * 4 + i] == expected, "lane %d word %d: %u", lane,
                    i, got[lane * 4 + i]);
    }
  }
}

}  // namespace
}  // namespace sparseserve::cuda

int main() {
  using namespace sparseserve::cuda;
  if (!HasHopper()) return kSkipped;
  TestReport report;
  BoxIsSwizzledAndPaddedWithZeros(report);
  ProductsAreWhatTheyShould<64>(report);
  ProductsAreWhatTheyShould<128>(report);
  RingHandsOverInOrder(report);
  QuadIsTransposed(report);
  return report.Finish("hopper_primitives_test");
}
