#include "engine/backend/cuda/cuda_backend.h"

#include <cuda_runtime_api.h>

#include <algorithm>
#include <bit>
#include <functional>
#include <set>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "engine/backend/cuda/cuda_status.h"
#include "engine/backend/cuda/decode_attention.h"
#include "engine/backend/cuda/device_layout.h"
#include "engine/backend/cuda/embedding.h"
#include "engine/backend/cuda/gated_activation.h"
#include "engine/backend/cuda/matrix_products.h"
#include "engine/backend/cuda/prefill_attention.h"
#include "engine/backend/cuda/rms_norm.h"
#include "engine/backend/cuda/rope_and_store.h"
#include "engine/backend/cuda/step_arrays.h"
#include "engine/backend/cuda/step_launches.h"
#include "engine/backend/cuda/step_results.h"
#include "engine/backend/cuda/step_room.h"
#include "engine/backend/cuda/step_sampler.h"
#include "engine/backend/cuda/step_selection.h"
#include "engine/backend/cuda/weight_upload.h"
#include "engine/base/available_cores.h"
#include "engine/base/check.h"
#include "engine/base/status_macros.h"

namespace sparseserve::cuda {
namespace {

absl::Status Missing(const LaunchStatus& status) {
  if (status.ok()) return absl::OkStatus();
  return absl::FailedPreconditionError(status.message());
}

// Steps of more rows keep the device busy longer than the host needs to launch.
constexpr int64_t kMostGraphRows = 64;

enum class Operation : uint64_t {
  kEmbed,
  kRmsNorm,
  kAddRmsNorm,
  kLinear,
  kRopeAndStore,
  kPrefill,
  kDecode,
  kSwiGlu,
  kGeGlu,
  kSoftCap,
  kChooseForOutput,
  kCopyLists,
  kChooseForPrompt,
  kChooseByLastRows,
  kSample,
};

// For signatures.
uint64_t Bits(const void* pointer) {
  return reinterpret_cast<uint64_t>(pointer);
}
uint64_t Bits(int64_t value) { return static_cast<uint64_t>(value); }
uint64_t Bits(int32_t value) { return Bits(int64_t{value}); }
uint64_t Bits(float value) { return std::bit_cast<uint32_t>(value); }

// bf16 [rows, columns] on the device.
class CudaWeight : public Weight {
 public:
  CudaWeight(Buffer memory, int64_t rows, int64_t columns)
      : memory_(std::move(memory)), rows_(rows), columns_(columns) {}

  int64_t rows() const override { return rows_; }
  int64_t columns() const override { return columns_; }
  int64_t bytes() const override { return memory_.bytes(); }
  const void* data() const { return memory_.data(); }

 private:
  Buffer memory_;
  int64_t rows_;
  int64_t columns_;
};

// Checks `needs` against what the kernels take.
absl::Status CheckNeeds(const ModelNeeds& needs) {
  if (needs.head_dim != 64 && needs.head_dim != 128) {
    return absl::FailedPreconditionError(absl::StrCat(
        "the model's head_dim is ", needs.head_dim, "; kernels have 64, 128"));
  }
  constexpr int32_t kMostHeads = 16;
  if (needs.heads > kMostHeads * needs.kv_heads) {
    return absl::FailedPreconditionError(absl::StrCat(
        "the model has ", needs.heads / needs.kv_heads,
        " query heads for each KV head; kernels take up to ", kMostHeads));
  }
  if (needs.attention_softcap != 0) {
    return absl::FailedPreconditionError(
        "the model caps attention scores, which kernels do not");
  }
  if (needs.prunes_heads) {
    return absl::FailedPreconditionError(
        "some of the model's heads are pruned; kernels have as many in every "
        "layer");
  }
  if (needs.hidden % 8 != 0 || needs.mlp_hidden % 8 != 0) {
    return absl::FailedPreconditionError(
        absl::StrCat("the model's rows of ", needs.hidden, " and ",
                     needs.mlp_hidden, " elements are no multiples of 8"));
  }
  return absl::OkStatus();
}

class CudaBackend : public Backend {
 public:
  // What a backend is made of.
  struct Parts {
    std::unique_ptr<PrefillAttention> prefill;
    std::unique_ptr<DecodeAttention> decode;
    std::unique_ptr<MatrixProducts> products;
    std::unique_ptr<WeightUpload> upload;
    std::unique_ptr<StepSampler> sampler;  // may be null
  };

  CudaBackend(DeviceInfo device, cudaStream_t stream, Parts parts)
      : device_(std::move(device)),
        stream_(stream),
        parts_(std::move(parts)),
        arrays_(stream),
        results_(stream),
        launches_(stream, arrays_),
        selection_({arrays_, room_, results_, launches_},
                   {static_cast<uint64_t>(Operation::kChooseForOutput),
                    static_cast<uint64_t>(Operation::kCopyLists),
                    static_cast<uint64_t>(Operation::kChooseForPrompt),
                    static_cast<uint64_t>(Operation::kChooseByLastRows)}) {}
  ~CudaBackend() override {
    cudaStreamSynchronize(stream_);
    cudaStreamDestroy(stream_);
  }

  const DeviceInfo& device() const override { return device_; }

  absl::StatusOr<std::unique_ptr<Weight>> LoadWeight(
      absl::Span<const StoredMatrix> stacked, WeightUse use) override {
    SPARSESERVE_CHECK(!stacked.empty());
    const int64_t columns = stacked[0].columns;
    int64_t rows = 0;
    for (const StoredMatrix& matrix : stacked) rows += matrix.rows;
    if (columns % 8 != 0) {
      return absl::InvalidArgumentError(absl::StrCat(
          "has rows of ", columns, " elements; a GPU takes multiples of 8"));
    }
    ASSIGN_OR_RETURN(Buffer memory, Allocate(rows * columns * 2));
    RETURN_IF_ERROR(parts_.upload->Run(stacked, memory.data()));
    if (use == WeightUse::kLayer) layer_shapes_.insert({rows, columns});
    if (use == WeightUse::kFewRows) head_shapes_.insert({rows, columns});
    return std::make_unique<CudaWeight>(std::move(memory), rows, columns);
  }

  absl::StatusOr<Buffer> Allocate(int64_t bytes) override {
    void* data = nullptr;
    RETURN_IF_ERROR(CudaStatus(
        cudaMalloc(&data, std::max<int64_t>(bytes, 1)),
        absl::StrCat("cannot allocate ", bytes, " bytes on the GPU").c_str()));
    Buffer buffer(static_cast<std::byte*>(data), bytes,
                  [](std::byte* memory, int64_t) { cudaFree(memory); });
    RETURN_IF_ERROR(CudaStatus(cudaMemsetAsync(data, 0, bytes, stream_),
                               "clearing a buffer on the GPU"));
    return buffer;
  }

  absl::Status Prepare(int64_t max_rows,
                       const std::function<void(double)>& progress) override {
    // What a weight's results are follows from where it is used.
    std::vector<ProductShape> shapes;
    for (const auto& [outputs, columns] : layer_shapes_) {
      shapes.push_back({outputs, columns});
      shapes.push_back({outputs, columns, true, true});
    }
    RETURN_IF_ERROR(
        Missing(parts_.products->Tune(shapes, max_rows, stream_, progress)));
    shapes.clear();
    for (const auto& [outputs, columns] : head_shapes_) {
      shapes.push_back({outputs, columns, true, false});
    }
    return Missing(parts_.products->Tune(
        shapes, std::min(max_rows, kMostGraphRows), stream_, nullptr));
  }

  int64_t AvailableBytes() const override {
    size_t free = 0;
    size_t total = 0;
    if (cudaMemGetInfo(&free, &total) != cudaSuccess) return 0;
    // Choosing takes its workspaces when the first layer does.
    return std::max<int64_t>(
        0, static_cast<int64_t>(free) - StepSelection::kLaterBytes);
  }

  void Upload(const void* from, int64_t bytes, std::byte* to) override {
    Note(launches_.Flush());
    Note(CudaStatus(
        cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice, stream_),
        "copying to the GPU"));
    Wait("copying to the GPU");
  }

  void Download(const std::byte* from, int64_t bytes, void* to) override {
    Note(launches_.Flush());
    Note(CudaStatus(
        cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, stream_),
        "copying from the GPU"));
    Wait("copying from the GPU");
  }

  void Copy(const std::byte* from, int64_t bytes, std::byte* to) override {
    Note(CudaStatus(
        cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, stream_),
        "copying within the GPU"));
  }

  void BeginStep(RowGroups groups) override {
    arrays_.Begin();
    room_.Begin();
    results_.Begin();
    selection_.Begin();
    layouts_.clear();
    decodes_ = groups.prefill_rows == 0;
    launches_.Begin(decodes_ && groups.decode_rows <= kMostGraphRows);
  }

  absl::Status EndStep() override {
    Note(launches_.Flush());
    Note(results_.Fetch());
    Wait("a step");
    if (status_.ok()) results_.Deliver();
    results_.Begin();
    launches_.Begin(/*gathers=*/false);
    return status_;
  }

  void Embed(const Weight& table, absl::Span<const TokenId> tokens, float scale,
             MatrixView output) override {
    EmbeddingArgs args;
    args.tokens = arrays_.CopyOnce(tokens);
    args.rows = static_cast<int32_t>(tokens.size());
    args.table = static_cast<const CudaWeight&>(table).data();
    args.vocabulary = static_cast<int32_t>(table.rows());
    args.columns = static_cast<int32_t>(table.columns());
    args.scale = scale;
    args.output = output.row(0);
    Launch(
        Operation::kEmbed,
        [args](cudaStream_t stream) { return LaunchEmbedding(args, stream); },
        args.rows, args.columns, args.tokens, args.table, args.scale,
        args.output);
  }

  void RmsNorm(ConstMatrixView input, const float* gain, float epsilon,
               MatrixView output) override {
    Norm(nullptr, input, gain, epsilon, output);
  }

  void RmsNormOf(absl::Span<const int32_t> rows, ConstMatrixView input,
                 const float* gain, float epsilon, MatrixView output) override {
    SPARSESERVE_CHECK(output.rows == static_cast<int64_t>(rows.size()));
    Norm(arrays_.Copy(rows), input, gain, epsilon, output);
  }

  void AddRmsNorm(ConstMatrixView input, const float* gain, float epsilon,
                  MatrixView output) override {
    AddRmsNormArgs args;
    args.rows = static_cast<int32_t>(input.rows);
    args.columns = static_cast<int32_t>(input.columns);
    args.input = input.data;
    args.input_is_bf16 = input.dtype == DType::kBF16;
    args.gain = gain;
    args.epsilon = epsilon;
    args.hidden = output.row(0);
    Launch(
        Operation::kAddRmsNorm,
        [args](cudaStream_t stream) { return LaunchAddRmsNorm(args, stream); },
        args.rows, args.columns, args.input, args.gain, args.epsilon,
        args.hidden);
  }

  void Linear(const Weight& weight, ConstMatrixView input, RowGroups,
              bool accumulate, MatrixView output) override {
    const auto& matrix = static_cast<const CudaWeight&>(weight);
    SPARSESERVE_CHECK(input.dtype == DType::kBF16);
    SPARSESERVE_CHECK(input.columns == weight.columns());
    SPARSESERVE_CHECK(output.columns == weight.rows());
    SPARSESERVE_CHECK(!accumulate || output.dtype == DType::kF32);
    ProductArgs args;
    args.rows = input.rows;
    args.outputs = weight.rows();
    args.columns = weight.columns();
    args.input = input.data;
    args.weight = matrix.data();
    args.output = output.data;
    args.output_is_float = output.dtype == DType::kF32;
    args.accumulate = accumulate;
    Launch(
        Operation::kLinear,
        [args, this](cudaStream_t stream) {
          return parts_.products->Run(args, stream);
        },
        args.rows, args.outputs, args.columns, args.input, args.weight,
        args.output, int64_t{args.output_is_float}, int64_t{args.accumulate});
  }

  void RopeAndStore(const RopeAndStoreArgs& args) override {
    RopeRowsArgs rows;
    rows.rows = static_cast<int32_t>(args.qkv.rows);
    rows.qkv = args.qkv.data;
    rows.qkv_stride = args.qkv.columns;
    rows.heads = args.heads;
    rows.bias = args.bias;
    rows.query_gain = args.query_gain;
    rows.key_gain = args.key_gain;
    rows.norm_epsilon = args.norm_epsilon;
    rows.positions = arrays_.CopyOnce(args.positions);
    rows.kv_slots = arrays_.CopyOnce(args.kv_slots);
    // Output that is run again has several rows.
    rows.pages_have_one_row =
        decodes_ &&
        std::adjacent_find(args.kv_slots.begin(), args.kv_slots.end(),
                           [](const auto& a, const auto& b) {
                             return a / kPageTokens == b / kPageTokens;
                           }) == args.kv_slots.end();
    rows.pairs = args.pairs == RopePairs::kAdjacent ? RotatedPairs::kAdjacent
                                                    : RotatedPairs::kHalves;
    rows.cosines = args.cosines;
    rows.sines = args.sines;
    rows.kv.keys = args.kv.keys;
    rows.kv.values = args.kv.values;
    rows.kv.pages = args.kv.pages;
    rows.kv.kv_heads = args.kv.kv_heads;
    rows.kv.head_dim = args.kv.head_dim;
    rows.kv.key_bounds = args.kv.key_bounds;
    Launch(
        Operation::kRopeAndStore,
        [rows](cudaStream_t stream) {
          return LaunchRopeAndStore(rows, stream);
        },
        rows.rows, rows.qkv, rows.bias, rows.query_gain, rows.key_gain,
        rows.positions, rows.kv_slots, rows.cosines, rows.kv.keys,
        rows.kv.values, rows.kv.key_bounds, int64_t{rows.pages_have_one_row});
  }

  void Attention(const AttentionArgs& args) override {
    const DeviceLayout* layout =
        LayoutOf(*args.layout, args.pages, args.groups);
    if (layout == nullptr) return;
    if (layout->decode.sequences > 0) Decode(args, *layout);
    if (layout->prefill.tiles > 0) Prefill(args, *layout);
  }

  void Select(const SelectArgs& args) override {
    const DeviceLayout* base = LayoutOf(*args.base, args.pages, args.groups);
    if (base == nullptr) return;
    auto chosen = selection_.Run(args, *base);
    if (!chosen.ok()) return Note(chosen.status());
    layouts_[&args.selected->layout()] = *std::move(chosen);
  }

  void Sample(const SampleArgs& args) override {
    if (parts_.sampler == nullptr) return Lacks("sampler");
    Note(parts_.sampler->Run(args, static_cast<uint64_t>(Operation::kSample),
                             launches_, results_, stream_));
  }

  void Correct(const CorrectArgs&) override { Lacks("correction of rows"); }
  void Profile(const ProfileArgs&) override { Lacks("profiles of attention"); }

  void SwiGlu(ConstMatrixView gate_up, MatrixView output) override {
    Gate(Operation::kSwiGlu, LaunchSwiGlu, gate_up, output);
  }
  void GeGlu(ConstMatrixView gate_up, MatrixView output) override {
    Gate(Operation::kGeGlu, LaunchGeGlu, gate_up, output);
  }

  void SoftCap(float cap, MatrixView values) override {
    SoftCapArgs args;
    args.cap = cap;
    args.count = values.rows * values.columns;
    args.values = values.row(0);
    Launch(
        Operation::kSoftCap,
        [args](cudaStream_t stream) { return LaunchSoftCap(args, stream); },
        args.cap, args.count, args.values);
  }

 private:
  void Norm(const int32_t* rows, ConstMatrixView input, const float* gain,
            float epsilon, MatrixView output) {
    SPARSESERVE_CHECK(output.dtype == DType::kBF16);
    RmsNormArgs args;
    args.rows = static_cast<int32_t>(output.rows);
    args.columns = static_cast<int32_t>(input.columns);
    args.input = input.row(0);
    args.input_rows = rows;
    args.gain = gain;
    args.epsilon = epsilon;
    args.output = output.data;
    Launch(
        Operation::kRmsNorm,
        [args](cudaStream_t stream) { return LaunchRmsNorm(args, stream); },
        args.rows, args.columns, args.input, args.input_rows, args.gain,
        args.epsilon, args.output);
  }

  void Gate(Operation operation,
            LaunchStatus (*launch)(const GatedActivationArgs&, cudaStream_t),
            ConstMatrixView gate_up, MatrixView output) {
    GatedActivationArgs args;
    args.rows = static_cast<int32_t>(output.rows);
    args.columns = static_cast<int32_t>(output.columns);
    args.gate_up = gate_up.data;
    args.output = output.data;
    Launch(
        operation,
        [args, launch](cudaStream_t stream) { return launch(args, stream); },
        args.rows, args.columns, args.gate_up, args.output);
  }

  // The layout on the device, once for a step; null after an error.
  const DeviceLayout* LayoutOf(const BlockLayout& layout,
                               absl::Span<const absl::Span<const PageId>> pages,
                               RowGroups groups) {
    const auto found = layouts_.find(&layout);
    if (found != layouts_.end()) return &found->second;
    auto built =
        layout_builder_.Build(layout, pages, groups.decode_rows, arrays_);
    if (!built.ok()) {
      Note(built.status());
      return nullptr;
    }
    return &(layouts_[&layout] = *std::move(built));
  }

  void Decode(const AttentionArgs& args, const DeviceLayout& layout) {
    DecodeAttentionArgs decode;
    decode.sequences = layout.decode.sequences;
    decode.queries = args.queries.data;
    decode.query_stride = args.queries.columns;
    decode.heads = args.heads;
    decode.kv =
        Paged(args.kv, layout.decode.page_tables, layout.page_table_stride);
    decode.lengths = layout.decode.lengths;
    decode.lists = layout.decode.lists;
    decode.scale = args.scale;
    decode.output = args.output.data;
    decode.output_stride = args.output.columns;
    decode.lse = args.lse;
    Launch(
        Operation::kDecode,
        [decode, this](cudaStream_t stream) {
          return parts_.decode->Run(decode, stream);
        },
        decode.sequences, decode.queries, decode.kv.keys, decode.kv.values,
        decode.kv.page_tables, decode.kv.page_table_stride, decode.lengths,
        decode.lists.block_counts, decode.lists.block_offsets,
        decode.lists.blocks, decode.output, decode.lse);
  }

  void Prefill(const AttentionArgs& args, const DeviceLayout& layout) {
    PrefillAttentionArgs prefill;
    prefill.queries = args.queries.data;
    prefill.query_rows = args.queries.rows;
    prefill.query_stride = args.queries.columns;
    prefill.heads = args.heads;
    prefill.kv = Paged(args.kv, layout.page_tables, layout.page_table_stride);
    prefill.lists = layout.prefill;
    prefill.scale = args.scale;
    prefill.output = args.output.data;
    prefill.output_stride = args.output.columns;
    prefill.lse = args.lse;
    const DeviceBlockLists& lists = prefill.lists;
    const int64_t pairs = int64_t{lists.tiles} * args.kv.kv_heads;
    if (lists.skip_below != nullptr && args.skipped != nullptr) {
      prefill.skipped = results_.Add<int32_t>(
          pairs, [tiles = layout.prefill_tiles.tiles, to = args.skipped,
                  kv_heads = args.kv.kv_heads](const int32_t* found) {
            for (size_t i = 0; i < tiles.size() * kv_heads; ++i) {
              to[int64_t{tiles[i / kv_heads]} * kv_heads + i % kv_heads] +=
                  found[i];
            }
          });
      Note(results_.status());
    }
    Launch(
        Operation::kPrefill,
        [prefill, pairs, this](cudaStream_t stream) {
          if (prefill.skipped != nullptr) {
            cudaMemsetAsync(prefill.skipped, 0, pairs * sizeof(int32_t),
                            stream);
          }
          return parts_.prefill->Run(prefill, stream);
        },
        prefill.query_rows, prefill.queries, prefill.kv.keys, prefill.kv.values,
        prefill.kv.page_tables, prefill.kv.page_table_stride, lists.tiles,
        lists.tile_fields, lists.list_of, lists.full_offsets, lists.full_blocks,
        lists.partial_offsets, lists.partial_blocks, lists.partial_masks,
        lists.order, lists.skip_below, prefill.output, prefill.lse,
        prefill.skipped);
  }

  void Lacks(const char* what) {
    Note(absl::UnimplementedError(absl::StrCat("a GPU has no ", what)));
  }
  // `values` are what the launch is given.
  template <typename... Values>
  void Launch(Operation operation, StepLaunches::Launch launch,
              Values... values) {
    Note(launches_.Add({static_cast<uint64_t>(operation), Bits(values)...},
                       std::move(launch)));
  }
  void Wait(const char* what) {
    Note(CudaStatus(cudaStreamSynchronize(stream_), what));
  }
  // The first error stays: what comes after it follows from it.
  void Note(absl::Status status) {
    if (status_.ok() && !status.ok()) status_ = std::move(status);
  }

  const DeviceInfo device_;
  cudaStream_t stream_;
  const Parts parts_;
  // [outputs, columns] of the loaded weights.
  std::set<std::pair<int64_t, int64_t>> layer_shapes_;
  std::set<std::pair<int64_t, int64_t>> head_shapes_;
  // Of the step at hand.
  bool decodes_ = false;  // each sequence has one row
  StepArrays arrays_;
  StepRoom room_;
  StepResults results_;
  StepLaunches launches_;
  StepSelection selection_;
  DeviceLayoutBuilder layout_builder_;
  std::unordered_map<const BlockLayout*, DeviceLayout> layouts_;
  absl::Status status_;
};

// The current device, if kernels are made for it.
absl::StatusOr<DeviceInfo> DescribeDevice() {
  int count = 0;
  const cudaError_t error = cudaGetDeviceCount(&count);
  if (error != cudaSuccess) {
    return absl::FailedPreconditionError(cudaGetErrorString(error));
  }
  if (count == 0) return absl::FailedPreconditionError("there is none");
  int index = 0;
  cudaDeviceProp properties = {};
  RETURN_IF_ERROR(CudaStatus(cudaGetDevice(&index), "asking for the GPU"));
  RETURN_IF_ERROR(CudaStatus(cudaGetDeviceProperties(&properties, index),
                             "asking for the GPU's properties"));
  if (properties.major < 8) {
    return absl::FailedPreconditionError(absl::StrCat(
        properties.name, " has compute capability ", properties.major, ".",
        properties.minor, "; 8.0 is needed"));
  }
  DeviceInfo device;
  device.name = "cuda";
  device.model = properties.name;
  device.simd = absl::StrCat("sm_", properties.major, properties.minor);
  device.compute_dtype = ComputeDtype::kBF16;
  device.prefill_dtype = DType::kBF16;
  device.kv_dtype = DType::kBF16;
  device.activation_dtype = DType::kBF16;
  device.shares_host_memory = false;
  device.selection_rules = StepSelection::RulesFor(0, 0);
  device.selects_for_output_chunks = false;
  device.corrects = false;
  device.profiles = false;
  device.kv_share = 0.9;
  device.kv_contexts = 4096;
  return device;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Backend>> CreateCudaBackend(
    const BackendOptions& options) {
  ASSIGN_OR_RETURN(DeviceInfo device, DescribeDevice());
  if (options.model.has_value()) {
    RETURN_IF_ERROR(CheckNeeds(*options.model));
  }
  const int cores = AvailableCores();
  device.threads = options.threads > 0 ? options.threads : cores;
  cudaStream_t stream = nullptr;
  RETURN_IF_ERROR(
      CudaStatus(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking),
                 "making a stream"));
  CudaBackend::Parts parts;
  RETURN_IF_ERROR(Missing(PrefillAttention::Create(&parts.prefill)));
  RETURN_IF_ERROR(Missing(DecodeAttention::Create(&parts.decode)));
  RETURN_IF_ERROR(Missing(MatrixProducts::Create(&parts.products)));
  RETURN_IF_ERROR(WeightUpload::Create(device.threads, stream, &parts.upload));
  if (options.model.has_value()) {
    device.selection_rules = StepSelection::RulesFor(
        options.model->context_tokens,
        int64_t{options.max_sampled_rows} * options.model->kv_heads);
    // Without one the host samples.
    auto sampler = StepSampler::Create(options.model->vocab_size,
                                       options.max_sampled_rows);
    if (sampler.ok()) parts.sampler = *std::move(sampler);
  }
  if (parts.sampler != nullptr) {
    device.samples = true;
    device.sampled_alternatives = StepSampler::kMostAlternatives;
    device.sampled_listed_tokens = StepSampler::kMostListedTokens;
  }
  return std::make_unique<CudaBackend>(std::move(device), stream,
                                       std::move(parts));
}

}  // namespace sparseserve::cuda
