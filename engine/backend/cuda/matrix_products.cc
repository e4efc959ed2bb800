#include "engine/backend/cuda/matrix_products.h"

#include <cuda_runtime_api.h>

#include <algorithm>
#include <bit>
#include <map>
#include <string>
#include <tuple>
#include <utility>

#include "engine/backend/cuda/argument_checks.h"
#include "engine/backend/cuda/cublas_lt.h"
#include "engine/backend/cuda/cuda_error.h"
#include "engine/backend/cuda/few_rows_product.h"

namespace sparseserve::cuda {
namespace {

// Up to which our own kernel is the faster one.
constexpr std::int64_t kFewRows = kMaxProductRows;
constexpr int kMostCandidates = 16;
constexpr int kTimedRuns = 3;
// Beyond the second-level cache of any device.
constexpr std::int64_t kColdBytes = std::int64_t{256} << 20;

LaunchStatus LibraryStatus(cublasStatus_t status, const char* what) {
  if (status == CUBLAS_STATUS_SUCCESS) return LaunchStatus();
  return LaunchStatus::Error(std::string(what) + ": cuBLASLt's status " +
                             std::to_string(status));
}

// Numbers of rows with one algorithm: a power of two up to 64, then multiples
// of an eighth of the power of two below.
std::int64_t Bucket(std::int64_t rows) {
  const auto power = static_cast<std::int64_t>(
      std::bit_floor(static_cast<std::uint64_t>(rows)));
  const std::int64_t step = power < 64 ? power : power / 8;
  return (rows + step - 1) / step * step;
}

struct Key {
  ProductShape shape;
  std::int64_t rows = 0;  // a bucket
  auto Fields() const {
    return std::tuple(shape.outputs, shape.columns, shape.output_is_float,
                      shape.accumulate, rows);
  }
  bool operator<(const Key& other) const { return Fields() < other.Fields(); }
};

// Descriptions of one product, given back at the end.
class Description {
 public:
  explicit Description(const CublasLt& library) : library_(library) {}
  Description(const Description&) = delete;
  Description& operator=(const Description&) = delete;
  ~Description() {
    if (matmul != nullptr) library_.matmul_desc_destroy(matmul);
    for (cublasLtMatrixLayout_t layout : {weight, input, output}) {
      if (layout != nullptr) library_.matrix_layout_destroy(layout);
    }
  }

  // Column-major, as the library likes it: output^T = weight * input^T.
  LaunchStatus Make(const ProductShape& shape, std::int64_t rows) {
    const cudaDataType_t result =
        shape.output_is_float ? CUDA_R_32F : CUDA_R_16BF;
    const cublasOperation_t transposed = CUBLAS_OP_T;
    cublasStatus_t status =
        library_.matmul_desc_create(&matmul, CUBLAS_COMPUTE_32F, CUDA_R_32F);
    if (status == CUBLAS_STATUS_SUCCESS) {
      status = library_.matmul_desc_set_attribute(
          matmul, CUBLASLT_MATMUL_DESC_TRANSA, &transposed, sizeof(transposed));
    }
    if (status == CUBLAS_STATUS_SUCCESS) {
      status = library_.matrix_layout_create(
          &weight, CUDA_R_16BF, shape.columns, shape.outputs, shape.columns);
    }
    if (status == CUBLAS_STATUS_SUCCESS) {
      status = library_.matrix_layout_create(&input, CUDA_R_16BF, shape.columns,
                                             rows, shape.columns);
    }
    if (status == CUBLAS_STATUS_SUCCESS) {
      status = library_.matrix_layout_create(&output, result, shape.outputs,
                                             rows, shape.outputs);
    }
    return LibraryStatus(status, "describing a product");
  }

  cublasLtMatmulDesc_t matmul = nullptr;
  cublasLtMatrixLayout_t weight = nullptr;
  cublasLtMatrixLayout_t input = nullptr;
  cublasLtMatrixLayout_t output = nullptr;

 private:
  const CublasLt& library_;
};

// Memory on the device, given back at the end.
class Scratch {
 public:
  explicit Scratch(std::int64_t bytes) {
    status_ = StatusOf(cudaMalloc(&data_, bytes), "room to time products");
  }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  ~Scratch() { cudaFree(data_); }
  const LaunchStatus& status() const { return status_; }
  std::byte* data() const { return static_cast<std::byte*>(data_); }

 private:
  void* data_ = nullptr;
  LaunchStatus status_;
};

}  // namespace

struct MatrixProducts::Library {
  ~Library() {
    if (handle != nullptr) lt.destroy(handle);
    cudaFree(workspace);
  }

  LaunchStatus Candidates(const Description& description, int most,
                          std::vector<cublasLtMatmulHeuristicResult_t>* found) {
    cublasLtMatmulPreference_t preference = nullptr;
    cublasStatus_t status = lt.preference_create(&preference);
    const std::size_t bytes = kWorkspaceBytes;
    if (status == CUBLAS_STATUS_SUCCESS) {
      status = lt.preference_set_attribute(
          preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &bytes,
          sizeof(bytes));
    }
    // Parts of a sum are never rounded to the output's type.
    const std::uint32_t reduction = CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE;
    if (status == CUBLAS_STATUS_SUCCESS) {
      status = lt.preference_set_attribute(
          preference, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &reduction,
          sizeof(reduction));
    }
    found->resize(most);
    int count = 0;
    if (status == CUBLAS_STATUS_SUCCESS) {
      status = lt.get_heuristic(handle, description.matmul, description.weight,
                                description.input, description.output,
                                description.output, preference, most,
                                found->data(), &count);
    }
    if (preference != nullptr) lt.preference_destroy(preference);
    found->resize(count);
    if (status == CUBLAS_STATUS_SUCCESS && count == 0) {
      return LaunchStatus::Error("cuBLASLt has no algorithm for a product");
    }
    return LibraryStatus(status, "choosing an algorithm for a product");
  }

  LaunchStatus Multiply(const Description& description,
                        const cublasLtMatmulAlgo_t& algorithm,
                        const ProductArgs& args, cudaStream_t stream) {
    const float alpha = 1.0f;
    const float beta = args.accumulate ? 1.0f : 0.0f;
    return LibraryStatus(
        lt.matmul(handle, description.matmul, &alpha, args.weight,
                  description.weight, args.input, description.input, &beta,
                  args.output, description.output, args.output,
                  description.output, &algorithm, workspace, kWorkspaceBytes,
                  stream),
        "a product");
  }

  LaunchStatus MultiplyFew(const ProductArgs& args, cudaStream_t stream) const {
    FewRowsProductArgs product;
    product.rows = static_cast<std::int32_t>(args.rows);
    product.input = args.input;
    product.input_stride = args.columns;
    product.weight = args.weight;
    product.inputs = static_cast<std::int32_t>(args.columns);
    product.outputs = static_cast<std::int32_t>(args.outputs);
    product.output = args.output;
    product.output_stride = args.outputs;
    product.output_is_bf16 = !args.output_is_float;
    product.accumulates = args.accumulate;
    return few_rows->Run(product, stream);
  }

  std::unique_ptr<FewRowsProduct> few_rows;
  CublasLt lt;
  cublasLtHandle_t handle = nullptr;
  void* workspace = nullptr;
  std::map<Key, cublasLtMatmulAlgo_t> algorithms;
};

MatrixProducts::MatrixProducts(std::unique_ptr<Library> library)
    : library_(std::move(library)) {}
MatrixProducts::~MatrixProducts() = default;

LaunchStatus MatrixProducts::Create(std::unique_ptr<MatrixProducts>* created) {
  auto library = std::make_unique<Library>();
  LaunchStatus status = LoadCublasLt(&library->lt);
  if (!status.ok()) return status;
  status =
      LibraryStatus(library->lt.create(&library->handle), "starting cuBLASLt");
  if (!status.ok()) return status;
  status = FewRowsProduct::Create(&library->few_rows);
  if (!status.ok()) return status;
  status = StatusOf(cudaMalloc(&library->workspace, kWorkspaceBytes),
                    "the workspace of products");
  if (!status.ok()) return status;
  created->reset(new MatrixProducts(std::move(library)));
  return LaunchStatus();
}

LaunchStatus MatrixProducts::Run(const ProductArgs& args, cudaStream_t stream) {
  if (args.rows == 0) return LaunchStatus();
  if (args.accumulate && !args.output_is_float) {
    return LaunchStatus::Error("accumulate needs an output of floats");
  }
  if (args.columns < 8 || args.columns % 8 != 0) {
    return OutOfRange("columns", args.columns, "a positive multiple of 8");
  }
  if (args.rows <= kFewRows) return library_->MultiplyFew(args, stream);
  const ProductShape shape = {args.outputs, args.columns, args.output_is_float,
                              args.accumulate};
  Description description(library_->lt);
  LaunchStatus status = description.Make(shape, args.rows);
  if (!status.ok()) return status;
  const Key key = {shape, Bucket(args.rows)};
  auto found = library_->algorithms.find(key);
  if (found == library_->algorithms.end()) {
    std::vector<cublasLtMatmulHeuristicResult_t> candidates;
    status = library_->Candidates(description, 1, &candidates);
    if (!status.ok()) return status;
    found = library_->algorithms.emplace(key, candidates[0].algo).first;
  }
  return library_->Multiply(description, found->second, args, stream);
}

LaunchStatus MatrixProducts::Tune(
    const std::vector<ProductShape>& shapes, std::int64_t most_rows,
    cudaStream_t stream, const std::function<void(double done)>& progress) {
  std::vector<std::int64_t> buckets;
  for (std::int64_t rows =
           std::bit_ceil(static_cast<std::uint64_t>(kFewRows + 1));
       rows <= most_rows; rows *= 2) {
    buckets.push_back(rows);
  }
  std::int64_t widest = 1;
  std::int64_t largest_weight = 1;
  for (const ProductShape& shape : shapes) {
    widest = std::max({widest, shape.outputs, shape.columns});
    largest_weight = std::max(largest_weight, shape.outputs * shape.columns);
  }
  const std::int64_t row_bytes = most_rows * widest * 4;
  Scratch input(row_bytes);
  Scratch output(row_bytes);
  Scratch weights(std::max(kColdBytes, 2 * largest_weight));
  for (const Scratch* scratch : {&input, &output, &weights}) {
    if (!scratch->status().ok()) return scratch->status();
    const std::int64_t bytes = scratch == &weights
                                   ? std::max(kColdBytes, 2 * largest_weight)
                                   : row_bytes;
    // Small numbers of any kind: what is multiplied costs power, so no zeros.
    LaunchStatus filled = StatusOf(
        cudaMemsetAsync(scratch->data(), 0x3c, bytes, stream), "filling rows");
    if (!filled.ok()) return filled;
  }
  cudaEvent_t begin = nullptr;
  cudaEvent_t end = nullptr;
  LaunchStatus status = StatusOf(cudaEventCreate(&begin), "an event");
  if (status.ok()) status = StatusOf(cudaEventCreate(&end), "an event");
  std::size_t done = 0;
  for (const ProductShape& shape : shapes) {
    for (const std::int64_t rows : buckets) {
      if (!status.ok()) break;
      const Key key = {shape, rows};
      Description description(library_->lt);
      status = description.Make(shape, rows);
      if (!status.ok()) break;
      std::vector<cublasLtMatmulHeuristicResult_t> candidates;
      status = library_->Candidates(description, kMostCandidates, &candidates);
      if (!status.ok()) break;
      float best = 0.0f;
      std::int64_t offset = 0;
      const std::int64_t weight_bytes = 2 * shape.outputs * shape.columns;
      const std::int64_t room = std::max(kColdBytes, 2 * largest_weight);
      for (const auto& candidate : candidates) {
        float fastest = 0.0f;
        bool works = true;
        for (int run = 0; run <= kTimedRuns && works; ++run) {
          ProductArgs args;
          args.rows = rows;
          args.outputs = shape.outputs;
          args.columns = shape.columns;
          args.input = input.data();
          args.output = output.data();
          args.output_is_float = shape.output_is_float;
          args.accumulate = shape.accumulate;
          if (offset + weight_bytes > room) offset = 0;
          args.weight = weights.data() + offset;
          offset += (weight_bytes + 255) / 256 * 256;
          cudaEventRecord(begin, stream);
          works = library_->Multiply(description, candidate.algo, args, stream)
                      .ok();
          cudaEventRecord(end, stream);
          works = works && cudaEventSynchronize(end) == cudaSuccess;
          float milliseconds = 0.0f;
          cudaEventElapsedTime(&milliseconds, begin, end);
          // The first one loads the kernel.
          if (run > 0 && (fastest == 0.0f || milliseconds < fastest)) {
            fastest = milliseconds;
          }
        }
        if (!works) continue;
        if (best == 0.0f || fastest < best) {
          best = fastest;
          library_->algorithms.insert_or_assign(key, candidate.algo);
        }
      }
    }
    ++done;
    if (progress) {
      progress(static_cast<double>(done) / static_cast<double>(shapes.size()));
    }
  }
  if (begin != nullptr) cudaEventDestroy(begin);
  if (end != nullptr) cudaEventDestroy(end);
  return status;
}

}  // namespace sparseserve::cuda
