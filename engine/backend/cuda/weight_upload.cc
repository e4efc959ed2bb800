#include "engine/backend/cuda/weight_upload.h"

#include <cuda_runtime_api.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "engine/backend/cuda/cuda_status.h"
#include "engine/tensor/quant_blocks.h"

namespace sparseserve::cuda {
namespace {

constexpr int kPieces = 3;
constexpr int64_t kPieceBytes = int64_t{16} << 20;

// To the nearest, of two to the even one; NaN stays NaN.
uint16_t ToBfloat16(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  if (std::isnan(value)) return static_cast<uint16_t>(bits >> 16 | 0x40);
  return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

// Rows [begin, end) of the matrix, in bf16.
void Round(const StoredMatrix& matrix, int64_t begin, int64_t end,
           uint16_t* to) {
  const int64_t row_bytes =
      matrix.columns / BlockElements(matrix.dtype) * BlockBytes(matrix.dtype);
  std::vector<float> row(matrix.columns);
  for (int64_t r = begin; r < end; ++r) {
    const std::byte* from = matrix.data + r * row_bytes;
    uint16_t* row_to = to + (r - begin) * matrix.columns;
    if (matrix.dtype == DType::kBF16) {
      std::copy(from, from + row_bytes, reinterpret_cast<std::byte*>(row_to));
      continue;
    }
    DequantizeRow(matrix.dtype, from, matrix.columns, row.data());
    std::transform(row.begin(), row.end(), row_to, ToBfloat16);
  }
}

}  // namespace

struct WeightUpload::Piece {
  std::byte* memory = nullptr;  // page-locked
  cudaEvent_t copied = nullptr;
};

WeightUpload::WeightUpload(int threads, cudaStream_t stream)
    : threads_(std::max(threads, 1)),
      stream_(stream),
      pieces_(std::make_unique<Piece[]>(kPieces)) {}

WeightUpload::~WeightUpload() {
  for (int i = 0; i < kPieces; ++i) {
    cudaFreeHost(pieces_[i].memory);
    if (pieces_[i].copied != nullptr) cudaEventDestroy(pieces_[i].copied);
  }
}

absl::Status WeightUpload::Create(int threads, cudaStream_t stream,
                                  std::unique_ptr<WeightUpload>* created) {
  std::unique_ptr<WeightUpload> made(new WeightUpload(threads, stream));
  for (int i = 0; i < kPieces; ++i) {
    Piece& piece = made->pieces_[i];
    if (cudaMallocHost(reinterpret_cast<void**>(&piece.memory), kPieceBytes) !=
            cudaSuccess ||
        cudaEventCreateWithFlags(&piece.copied, cudaEventDisableTiming) !=
            cudaSuccess) {
      return absl::ResourceExhaustedError(
          absl::StrCat("cannot lock ", kPieceBytes, " bytes for loading"));
    }
  }
  *created = std::move(made);
  return absl::OkStatus();
}

absl::Status WeightUpload::Run(absl::Span<const StoredMatrix> stacked,
                               std::byte* to) {
  for (const StoredMatrix& matrix : stacked) {
    const absl::Status status = Copy(matrix, to);
    if (!status.ok()) return status;
    to += matrix.rows * matrix.columns * static_cast<int64_t>(sizeof(uint16_t));
  }
  return absl::OkStatus();
}

absl::Status WeightUpload::Copy(const StoredMatrix& matrix, std::byte* to) {
  const int64_t row_bytes =
      matrix.columns * static_cast<int64_t>(sizeof(uint16_t));
  if (row_bytes > kPieceBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("has rows of ", matrix.columns, " elements; at most ",
                     kPieceBytes / 2, " are possible"));
  }
  const int64_t piece_rows = std::max<int64_t>(kPieceBytes / row_bytes, 1);
  for (int64_t begin = 0; begin < matrix.rows; begin += piece_rows) {
    const int64_t rows = std::min(piece_rows, matrix.rows - begin);
    Piece& piece = pieces_[next_];
    next_ = (next_ + 1) % kPieces;
    const absl::Status free =
        CudaStatus(cudaEventSynchronize(piece.copied), "loading a weight");
    if (!free.ok()) return free;
    auto* const rounded = reinterpret_cast<uint16_t*>(piece.memory);
    const int64_t share = (rows + threads_ - 1) / threads_;
    std::vector<std::thread> workers;
    for (int64_t from = 0; from < rows; from += share) {
      const int64_t until = std::min(from + share, rows);
      workers.emplace_back([&matrix, begin, from, until, rounded] {
        Round(matrix, begin + from, begin + until,
              rounded + from * matrix.columns);
      });
    }
    for (std::thread& worker : workers) worker.join();
    absl::Status queued = CudaStatus(
        cudaMemcpyAsync(to + begin * row_bytes, piece.memory, rows * row_bytes,
                        cudaMemcpyHostToDevice, stream_),
        "loading a weight");
    if (queued.ok()) {
      queued = CudaStatus(cudaEventRecord(piece.copied, stream_),
                          "loading a weight");
    }
    if (!queued.ok()) return queued;
  }
  return absl::OkStatus();
}

}  // namespace sparseserve::cuda
