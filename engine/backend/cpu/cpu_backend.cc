#include "engine/backend/cpu/cpu_backend.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <functional>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "engine/backend/cpu/amx_selection.h"
#include "engine/backend/cpu/bfloat16_products.h"
#include "engine/backend/cpu/block_attention.h"
#include "engine/backend/cpu/block_selection.h"
#include "engine/backend/cpu/cpu_weight.h"
#include "engine/backend/cpu/elementwise_kernels.h"
#include "engine/backend/cpu/integer_kernels.h"
#include "engine/backend/cpu/integer_products.h"
#include "engine/backend/cpu/linear_kernels.h"
#include "engine/backend/cpu/page_bounds.h"
#include "engine/backend/cpu/stored_products.h"
#include "engine/backend/cpu/weight_profiling.h"
#include "engine/base/available_cores.h"
#include "engine/base/available_memory.h"
#include "engine/base/check.h"
#include "engine/base/status_macros.h"
#include "engine/base/thread_pool.h"

namespace sparseserve::cpu {
namespace {

// Rows that one worker takes at a time of a row operation: a few microseconds
// of work.
constexpr int64_t kRowGrain = 8;

// The system promises more than it has; using it all would be fatal.
absl::Status CheckFits(int64_t bytes, const char* what) {
  const int64_t available = AvailableMemoryBytes();
  if (bytes <= available) return absl::OkStatus();
  return absl::ResourceExhaustedError(
      absl::StrCat("cannot allocate ", bytes, " bytes for ", what, ": ",
                   available, " are available"));
}

class CpuBackend : public Backend {
 public:
  CpuBackend(DeviceInfo device, SimdLevel simd, int max_rows,
             bool multiply_bfloat16)
      : device_(std::move(device)),
        max_rows_(max_rows),
        linear_(LinearKernelsFor(simd)),
        elementwise_(ElementwiseKernelsFor(simd)),
        bounding_(SelectionKernelsFor(simd)),
        pool_(device_.threads),
        stored_(linear_, pool_),
        attention_(simd, multiply_bfloat16, pool_),
        selection_(
            attention_.rounds_queries() ? AmxSelectionKernels() : bounding_,
            pool_),
        profiling_(simd, attention_.rounds_queries(), pool_) {
    const IntegerKernels* integer = IntegerKernelsFor(simd);
    if (device_.compute_dtype == ComputeDtype::kBF16 && integer != nullptr) {
      integer_.emplace(*integer, pool_);
    }
    if (multiply_bfloat16) {
      bfloat16_.emplace(linear_, elementwise_, pool_);
    }
  }

  const DeviceInfo& device() const override { return device_; }

  absl::StatusOr<std::unique_ptr<Weight>> LoadWeight(
      absl::Span<const StoredMatrix> stacked, WeightUse use) override {
    ASSIGN_OR_RETURN(std::unique_ptr<CpuWeight> weight,
                     CpuWeight::Create(stacked));
    if (use == WeightUse::kTable) return weight;
    if (integer_.has_value()) RETURN_IF_ERROR(PackIntegers(stacked, *weight));
    if (!weight->strips_in_float().empty()) {
      stored_.Reserve(weight->columns());
    }
    if (bfloat16_.has_value() && use == WeightUse::kLayer) {
      RETURN_IF_ERROR(
          CheckFits(Bfloat16Products::PackingBytes(*weight),
                    "a bf16 copy of a weight (none with compute_dtype f32)"));
      ASSIGN_OR_RETURN(std::unique_ptr<PackedWeight> packed,
                       bfloat16_->Pack(*weight));
      weight->set_packed(std::move(packed));
    }
    return weight;
  }

  absl::StatusOr<Buffer> Allocate(int64_t bytes) override {
    SPARSESERVE_CHECK(bytes >= 0);
    RETURN_IF_ERROR(CheckFits(bytes, "a buffer"));
    // Fresh pages of the system are zero and take no memory until they are
    // touched: a large KV cache costs what its sequences use. Zeroing it here
    // would make loading slow and take gigabytes at once.
    const int64_t mapped = std::max<int64_t>(bytes, 1);
    void* data = mmap(nullptr, mapped, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (data == MAP_FAILED) {
      return absl::ResourceExhaustedError(
          absl::StrCat("cannot allocate ", bytes, " bytes of memory"));
    }
    return Buffer(static_cast<std::byte*>(data), bytes,
                  [](std::byte* memory, int64_t size) {
                    munmap(memory, std::max<int64_t>(size, 1));
                  });
  }

  absl::Status Prepare(int64_t, const std::function<void(double)>&) override {
    return absl::OkStatus();
  }

  int64_t AvailableBytes() const override { return AvailableMemoryBytes(); }

  void Upload(const void* from, int64_t bytes, std::byte* to) override {
    std::memcpy(to, from, bytes);
  }

  void Download(const std::byte* from, int64_t bytes, void* to) override {
    std::memcpy(to, from, bytes);
  }

  void Copy(const std::byte* from, int64_t bytes, std::byte* to) override {
    std::memcpy(to, from, bytes);
  }

  void BeginStep(RowGroups) override {}
  absl::Status EndStep() override { return absl::OkStatus(); }

  void Embed(const Weight& table, absl::Span<const TokenId> tokens, float scale,
             MatrixView output) override {
    const auto& weight = static_cast<const CpuWeight&>(table);
    SPARSESERVE_CHECK(output.columns == weight.columns());
    ForRows(tokens.size(), [&](int64_t row) {
      const WeightStrip& strip = weight.StripOf(tokens[row]);
      linear_.expand_row(strip.dtype, weight.RowData(tokens[row]),
                         weight.columns(), output.row(row));
      if (scale != 1.0f) {
        elementwise_.scale(scale, output.columns, output.row(row));
      }
    });
  }

  void RmsNorm(ConstMatrixView input, const float* gain, float epsilon,
               MatrixView output) override {
    ForRows(input.rows, [&](int64_t row) {
      elementwise_.rms_norm(input.row(row), gain, epsilon, input.columns,
                            output.row(row));
    });
  }

  void RmsNormOf(absl::Span<const int32_t> rows, ConstMatrixView input,
                 const float* gain, float epsilon, MatrixView output) override {
    SPARSESERVE_CHECK(output.rows == static_cast<int64_t>(rows.size()));
    ForRows(output.rows, [&](int64_t row) {
      elementwise_.rms_norm(input.row(rows[row]), gain, epsilon, input.columns,
                            output.row(row));
    });
  }

  void AddRmsNorm(ConstMatrixView input, const float* gain, float epsilon,
                  MatrixView output) override {
    ForRows(input.rows, [&](int64_t row) {
      elementwise_.add_rms_norm(input.row(row), gain, epsilon, input.columns,
                                output.row(row));
    });
  }

  void Linear(const Weight& weight, ConstMatrixView input, RowGroups groups,
              bool accumulate, MatrixView output) override {
    const auto& matrix = static_cast<const CpuWeight&>(weight);
    SPARSESERVE_CHECK(input.rows <= max_rows_);
    SPARSESERVE_CHECK(groups.decode_rows + groups.prefill_rows == input.rows);
    SPARSESERVE_CHECK(input.columns == weight.columns());
    SPARSESERVE_CHECK(output.columns == weight.rows());
    // However few: rounding that depended on their number would let a
    // sequence's text depend on its neighbours.
    const int64_t packed_rows =
        matrix.packed() != nullptr ? groups.prefill_rows : 0;
    const int64_t stored_rows = input.rows - packed_rows;
    if (stored_rows > 0) {
      MultiplyStored(matrix, {input.row(0), stored_rows, input.columns},
                     accumulate, {output.row(0), stored_rows, output.columns});
    }
    if (packed_rows > 0) {
      bfloat16_->Multiply(
          *matrix.packed(),
          {input.row(stored_rows), packed_rows, input.columns}, accumulate,
          {output.row(stored_rows), packed_rows, output.columns});
    }
  }

  void RopeAndStore(const RopeAndStoreArgs& args) override {
    ForRows(args.qkv.rows, [&](int64_t row) { RopeAndStoreRow(args, row); });
    if (args.kv.key_bounds != nullptr) {
      StorePageBounds(bounding_, args.kv, args.kv_slots, pool_);
    }
  }

  void Select(const SelectArgs& args) override { selection_.Run(args); }
  void Sample(const SampleArgs&) override {
    SPARSESERVE_CHECK(false);  // the host samples
  }

  void Attention(const AttentionArgs& args) override { attention_.Run(args); }

  void Correct(const CorrectArgs& args) override {
    const int64_t count = static_cast<int64_t>(args.corrections.size());
    ForRows(count, [&](int64_t i) {
      const RowCorrection& correction = args.corrections[i];
      if (correction.IsUsedIn(args.layer)) CorrectRows(args, correction);
    });
  }

  void Profile(const ProfileArgs& args) override { profiling_.Run(args); }

  void SwiGlu(ConstMatrixView gate_up, MatrixView output) override {
    ForRows(gate_up.rows, [&](int64_t row) {
      elementwise_.swiglu(gate_up.row(row), gate_up.row(row) + output.columns,
                          output.columns, output.row(row));
    });
  }

  void GeGlu(ConstMatrixView gate_up, MatrixView output) override {
    ForRows(gate_up.rows, [&](int64_t row) {
      elementwise_.geglu(gate_up.row(row), gate_up.row(row) + output.columns,
                         output.columns, output.row(row));
    });
  }

  void SoftCap(float cap, MatrixView values) override {
    ForRows(values.rows, [&](int64_t row) {
      elementwise_.soft_cap(cap, values.columns, values.row(row));
    });
  }

 private:
  void CorrectRows(const CorrectArgs& args, const RowCorrection& correction) {
    const int64_t columns = args.output.columns / args.kv_heads;
    const int64_t first_column = correction.kv_head * columns;
    const float* attended = args.attended.row(correction.row) + first_column;
    const float* listed = args.output.row(correction.row) + first_column;
    // Its own row last: until then it has what its list gave.
    for (int32_t r = correction.rows - 1; r >= 0; --r) {
      elementwise_.add_difference(
          attended, listed, columns,
          args.output.row(correction.row + r) + first_column);
    }
  }

  absl::Status PackIntegers(absl::Span<const StoredMatrix> stacked,
                            CpuWeight& weight) {
    const int64_t bytes = integer_->PackedBytes(stacked);
    if (bytes == 0) return absl::OkStatus();
    RETURN_IF_ERROR(CheckFits(
        bytes, "a packed copy of a weight (none with compute_dtype f32)"));
    integer_->Reserve(weight.columns());
    ASSIGN_OR_RETURN(Buffer memory, Allocate(bytes));
    weight.set_integers(std::make_unique<PackedIntegers>(
        integer_->Pack(stacked, std::move(memory))));
    return absl::OkStatus();
  }

  void MultiplyStored(const CpuWeight& weight, ConstMatrixView input,
                      bool accumulate, MatrixView output) {
    if (weight.integers() != nullptr) {
      integer_->Multiply(*weight.integers(), input, accumulate, output);
    }
    const absl::Span<const WeightStrip> strips = weight.strips_in_float();
    if (strips.empty()) return;
    stored_.Multiply(weight, strips, input, accumulate, output);
  }

  template <typename Body>
  void ForRows(int64_t rows, const Body& body) {
    pool_.ParallelFor(rows, kRowGrain, [&](int64_t begin, int64_t end, int) {
      for (int64_t row = begin; row < end; ++row) body(row);
    });
  }

  void RopeAndStoreRow(const RopeAndStoreArgs& args, int64_t row) const {
    const int head_dim = args.kv.head_dim;
    float* queries = args.qkv.row(row);
    if (args.bias != nullptr) {
      elementwise_.add(args.bias, args.qkv.columns, queries);
    }
    const int32_t position = args.positions[row];
    for (int head = 0; head < args.heads; ++head) {
      NormAndRotate(args, args.query_gain, position, queries + head * head_dim);
    }
    float* keys = queries + args.heads * head_dim;
    const float* values = keys + args.kv.kv_heads * head_dim;
    const int64_t page = args.kv_slots[row] / kPageTokens;
    const int64_t offset = args.kv_slots[row] % kPageTokens;
    SPARSESERVE_CHECK(page >= 0 && page < args.kv.pages);
    for (int head = 0; head < args.kv.kv_heads; ++head) {
      const int64_t slot =
          ((page * args.kv.kv_heads + head) * kPageTokens + offset) * head_dim;
      float* key = keys + head * head_dim;
      NormAndRotate(args, args.key_gain, position, key);
      Store(key, head_dim, slot, args.kv.dtype, args.kv.keys);
      Store(values + head * head_dim, head_dim, slot, args.kv.dtype,
            args.kv.values);
    }
  }

  // One head of a query or key, in place.
  void NormAndRotate(const RopeAndStoreArgs& args, const float* gain,
                     int32_t position, float* head) const {
    const int64_t half = args.kv.head_dim / 2;
    if (gain != nullptr) {
      elementwise_.rms_norm(head, gain, args.norm_epsilon, 2 * half, head);
    }
    if (args.cosines == nullptr) return;
    const auto rotate = args.pairs == RopePairs::kAdjacent
                            ? elementwise_.rotate_pairs
                            : elementwise_.rotate_halves;
    rotate(head, args.cosines + position * half, args.sines + position * half,
           half, head);
  }

  void Store(const float* from, int count, int64_t slot, DType dtype,
             std::byte* to) const {
    if (dtype == DType::kBF16) {
      elementwise_.to_bfloat16(from, count,
                               reinterpret_cast<uint16_t*>(to) + slot);
    } else {
      std::memcpy(to + slot * sizeof(float), from, count * sizeof(float));
    }
  }

  const DeviceInfo device_;
  const int max_rows_;
  const LinearKernels& linear_;
  const ElementwiseKernels& elementwise_;
  const SelectionKernels& bounding_;  // of keys
  ThreadPool pool_;
  StoredProducts stored_;
  std::optional<IntegerProducts> integer_;
  BlockAttention attention_;
  BlockSelection selection_;
  WeightProfiling profiling_;
  std::optional<Bfloat16Products> bfloat16_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Backend>> CreateCpuBackend(
    const CpuBackendOptions& options) {
  if (options.threads < 0 || options.threads > kMaxThreads) {
    return absl::InvalidArgumentError(
        absl::StrCat("threads is ", options.threads, "; allowed: 0 ... ",
                     kMaxThreads, ", 0 for one per available core"));
  }
  if (options.max_rows < 1 || options.max_rows > kMaxRows) {
    return absl::InvalidArgumentError(absl::StrCat(
        "max_rows is ", options.max_rows, "; allowed: 1 ... ", kMaxRows));
  }
  const SimdLevel simd = AvailableSimdLevel(options.simd);
  const bool has_amx = simd == SimdLevel::kAvx512 && HasAmx();
  DeviceInfo device;
  device.name = "cpu";
  device.note = options.note;
  device.threads = options.threads > 0
                       ? options.threads
                       : std::min(AvailableCores(), kMaxThreads);
  device.compute_dtype = options.compute_dtype.value_or(
      simd >= SimdLevel::kAvx2 ? ComputeDtype::kBF16 : ComputeDtype::kF32);
  const bool is_bfloat16 = device.compute_dtype == ComputeDtype::kBF16;
  device.kv_dtype = is_bfloat16 ? DType::kBF16 : DType::kF32;
  const bool multiply_bfloat16 = is_bfloat16 && has_amx;
  device.prefill_dtype = multiply_bfloat16 ? DType::kBF16 : DType::kF32;
  device.simd =
      std::string(SimdLevelName(simd)) + (multiply_bfloat16 ? "_amx" : "");
  return std::make_unique<CpuBackend>(std::move(device), simd, options.max_rows,
                                      multiply_bfloat16);
}

}  // namespace sparseserve::cpu
