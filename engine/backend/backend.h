#pragma once

// What a device must be able to do: hold memory and run about a dozen
// operations on views. Shapes stand in comments. One thread calls a backend.
//
// Buffers, views and raw pointers to floats lie on the device, which may have
// memory of its own; spans lie in the host's. Operations may be queued: they
// run in the order of the calls, and their results are there for the next
// operation, for Download() and when EndStep() returns.

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "engine/layout/block_layout.h"
#include "engine/layout/layout_builder.h"
#include "engine/layout/selection_rule.h"
#include "engine/profile/attention_profile.h"
#include "engine/step.h"
#include "engine/tensor/buffer.h"
#include "engine/tensor/dtype.h"
#include "engine/tensor/tensor_view.h"

namespace sparseserve {

// How products and KV storage are rounded. kF32 is exact; kBF16 rounds prefill
// rows to bf16 (float sums), decode rows to 16 bits, and keeps KV in bf16.
enum class ComputeDtype { kF32, kBF16 };

struct DeviceInfo {
  std::string name;   // "cpu", "cuda"
  std::string model;  // of a GPU: "NVIDIA H200"; else empty
  // The instructions in use: "avx512_amx", "avx2", ...; "sm_90", ...
  std::string simd;
  int threads = 0;
  ComputeDtype compute_dtype = ComputeDtype::kF32;  // what may be rounded
  // What factors of prefill products are rounded to: kF32 where they are
  // treated like those of decode products, also where kBF16 is allowed but the
  // device has no fast instructions for it.
  DType prefill_dtype = DType::kF32;
  DType kv_dtype = DType::kF32;  // kF32 or kBF16
  // Of rows between products; the residual stream and logits are kF32.
  DType activation_dtype = DType::kF32;  // kF32 or kBF16
  // Whether Download() has nothing to do: the host may look into buffers, as
  // soon as an operation returns.
  bool shares_host_memory = true;
  // The rules that Select() runs, and whether those for output rows also choose
  // for several rows of a slice at once.
  SelectionRuleKinds selection_rules = SelectionRuleKinds::All();
  bool selects_for_output_chunks = true;
  // Whether Correct() and Profile() run here, and whether Attention() looks at
  // BlockLayout::skip_below.
  bool corrects = true;
  bool profiles = true;
  bool skips = true;
  // Of what it has left when the model is loaded, the share that KV pages get
  // if nobody says how many bytes, and for how many contexts at most.
  double kv_share = 0.25;
  int32_t kv_contexts = 16;
  // Whether Sample() runs here, how many alternatives it reports at most, and
  // how many tokens the lists of all rows of a step may have, of biases twice
  // as many.
  bool samples = false;
  int32_t sampled_alternatives = 0;
  int64_t sampled_listed_tokens = 0;
  std::string note;  // for the start-up log, such as why it is no other device
};

// A matrix [rows = outputs, columns = inputs] in the form its device likes.
class Weight {
 public:
  virtual ~Weight() = default;
  virtual int64_t rows() const = 0;
  virtual int64_t columns() const = 0;
  // Memory held besides the mapped file.
  virtual int64_t bytes() const = 0;
};

// What a weight will be used for, so that its device can prepare it once.
enum class WeightUse {
  kLayer,    // decode and prefill rows
  kFewRows,  // output head, possibly the embedding table too: never many rows
             // at a time, so no second copy is made for prefill
  kTable,    // embedding table alone: never multiplied
};

// Rows of a batch: decode rows first, then prefill rows. A row's result is the
// same to the bit whatever other rows of either kind are beside it; a prefill
// row may be rounded otherwise than a decode row.
struct RowGroups {
  int64_t decode_rows = 0;
  int64_t prefill_rows = 0;
};

// One layer's KV storage: keys and values each
// [pages][kv_heads][kPageTokens][head_dim] of `dtype`.
struct KvLayerView {
  std::byte* keys = nullptr;
  std::byte* values = nullptr;
  DType dtype = DType::kF32;
  int32_t pages = 0;
  int32_t kv_heads = 0;
  int32_t head_dim = 0;
  // [pages][kv_heads][2][head_dim] of `dtype`: the greatest and the least of
  // each element of a page's keys. Holds for pages whose last key is stored;
  // whoever then rewrites an earlier one also writes those behind it again.
  // Null: they are not kept.
  std::byte* key_bounds = nullptr;
};

// Which two elements of a head turn together, for i < head_dim / 2.
enum class RopePairs {
  kAdjacent,  // 2 i and 2 i + 1: GGUF's order of llama and smollm3
  kHalves,    // i and i + head_dim / 2: everybody else's
};

struct RopeAndStoreArgs {
  // [rows, (heads + 2 * kv_heads) * head_dim]: queries, keys, values of each
  // row. In this order, each step only where it is asked for: the bias is
  // added, every query and key head normed, and rotated. Queries end in place,
  // keys and values in `kv`, with the bounds of the pages that are now full if
  // it keeps any.
  MatrixView qkv;
  int32_t heads = 0;
  const float* bias = nullptr;        // [qkv.columns]; null: none
  const float* query_gain = nullptr;  // [head_dim] of RmsNorm; null: no norm
  const float* key_gain = nullptr;    // likewise; null where query_gain is
  float norm_epsilon = 0;
  absl::Span<const int32_t> positions;  // [rows]
  // [rows]: where each row's key and value go: page * kPageTokens + offset.
  absl::Span<const int64_t> kv_slots;
  // [positions in context, head_dim / 2] cosines and sines; null: no rotation.
  RopePairs pairs = RopePairs::kAdjacent;
  const float* cosines = nullptr;
  const float* sines = nullptr;
  KvLayerView kv;
};

// Of each pair of tile and KV head that a rule was used for, what Select() made
// of it, in the host's memory.
struct ChosenBlocks {
  std::vector<int32_t> counts;  // [base->tiles, kv_heads]: blocks of the list
  // Likewise the list itself, of pairs that chose although others are kept
  // (SelectArgs::kept); else empty.
  std::vector<std::vector<BlockRange>> lists;
};

struct AttentionArgs {
  // Rotated queries: row r, head h at queries.row(r) + h * head_dim.
  // `queries.columns` is the row stride and may exceed heads * head_dim.
  ConstMatrixView queries;
  int32_t heads = 0;  // a multiple of kv.kv_heads (grouped queries)
  KvLayerView kv;
  // [slices]: page table of each slice that the layout names.
  absl::Span<const absl::Span<const PageId>> pages;
  // Or the layout() of a builder that Select() was given, which then stands for
  // what the last Select() chose for it.
  const BlockLayout* layout = nullptr;
  // Of the batch's rows. Tiles in none of the groups are taken for prefill rows
  // of which nothing is rounded.
  RowGroups groups;
  float scale = 1.0f;  // multiplies q . k before the softmax
  // Then a score s becomes softcap * tanh(s / softcap); 0: it stays.
  float softcap = 0.0f;
  // [rows, heads * head_dim]
  MatrixView output;
  // [rows, heads]: natural log of the row's softmax denominator; -infinity
  // where no key was visible (the output row is then 0). May be null.
  float* lse = nullptr;
  // [tiles, kv_heads] of the layout, to add to: the listed blocks that rows
  // left out (BlockLayout::skip_below), each counted once for a row and query
  // head. Null: nobody counts.
  int64_t* skipped = nullptr;
};

// A row that was attended twice, by its list and by more keys, whose difference
// goes to it and to rows behind it.
struct RowCorrection {
  int32_t row = 0;          // of the batch
  int32_t rows = 0;         // it and those that follow it; 1 or more
  int32_t kv_head = 0;      // whose query heads are corrected
  int32_t first_layer = 0;  // layers before it do without

  bool IsUsedIn(int32_t layer) const { return layer >= first_layer; }
};

struct CorrectArgs {
  absl::Span<const RowCorrection> corrections;
  int32_t layer = 0;  // what RowCorrection looks at
  int32_t kv_heads = 0;
  // [rows, heads * head_dim]: the second attention of the corrections' rows.
  ConstMatrixView attended;
  // Likewise, the first attention of all rows, which is corrected.
  MatrixView output;
};

struct SelectArgs {
  // As in AttentionArgs.
  ConstMatrixView queries;
  int32_t heads = 0;
  KvLayerView kv;
  absl::Span<const absl::Span<const PageId>> pages;
  RowGroups groups;
  float scale = 1.0f;
  float softcap = 0.0f;
  // What heads visit that no rule is for.
  const BlockLayout* base = nullptr;
  absl::Span<const SelectionRule> rules;
  absl::Span<const HeadSelection> selections;  // [base->tiles, kv.kv_heads]
  int32_t layer = 0;                           // what HeadSelection looks at
  // [base->tiles, kv.kv_heads], or empty: what heads that a rule is for visit
  // without choosing, since a choice was made before; empty where they choose.
  absl::Span<const absl::Span<const BlockRange>> kept;
  // A copy of base at a step's first layer, and then what the layer before made
  // of it. Becomes base, but that heads that a rule is for have lists of their
  // own: so nobody copies the others' for every layer. Where the device does
  // not share the host's memory its contents stay, and only its layout's
  // address counts, for AttentionArgs::layout.
  LayoutBuilder* selected = nullptr;
  // Where such a device says, when EndStep() returns, what it chose. May be
  // null.
  ChosenBlocks* chosen = nullptr;
};

// Query rows whose dense attention weights are wanted, within one block of
// positions: sums of all rows, or the heaviest keys of one.
struct ProfileTile {
  QueryTile tile;
  // [heads], to add to but for recall; null: not wanted.
  WeightSums* sums = nullptr;
  // [heads, any number for each], heaviest first, the earlier of equals; empty:
  // not wanted. Else REQUIRES tile.rows == 1.
  absl::Span<AttendedKey> heaviest;
};

struct ProfileArgs {
  // As in AttentionArgs.
  ConstMatrixView queries;
  int32_t heads = 0;
  KvLayerView kv;
  absl::Span<const absl::Span<const PageId>> pages;
  float scale = 1.0f;
  float softcap = 0.0f;
  // A row sees so many of its latest keys, 0 for all.
  int32_t window_tokens = 0;
  // [rows, heads]: log-sum-exp over all keys that a row sees.
  const float* lse = nullptr;
  absl::Span<const ProfileTile> tiles;
};

// What Sample() made of a row of logits.
struct SampledToken {
  enum class Outcome {
    kDrawn,
    kNotFinite,      // a logit is NaN or infinite
    kNothingToDraw,  // every token is banned
  };
  Outcome outcome = Outcome::kDrawn;
  TokenId token = -1;   // valid if kDrawn, like the others
  TokenLogprob chosen;  // valid if logprobs >= 0
  std::vector<TokenLogprob> alternatives;
};

struct SampleArgs {
  ConstMatrixView logits;  // [rows, vocab_size], floats
  // [rows]: whose sampling parameters and lists of tokens say how the row
  // becomes a token (engine/model/sampler.h). REQUIRES: within their ranges,
  // and DeviceInfo's limits.
  absl::Span<const StepSlice* const> slices;
  absl::Span<SampledToken> tokens;  // [rows]: there when EndStep() returns
};

class Backend {
 public:
  virtual ~Backend() = default;

  virtual const DeviceInfo& device() const = 0;

  // One weight from matrices of equal width stacked row-wise (query, key and
  // value; gate and up). The stored bytes are borrowed for the life of the
  // weight: they may be used in place.
  virtual absl::StatusOr<std::unique_ptr<Weight>> LoadWeight(
      absl::Span<const StoredMatrix> stacked, WeightUse use) = 0;
  // Zeroed memory on the device, 64-byte aligned. RESOURCE_EXHAUSTED if it
  // cannot be had.
  virtual absl::StatusOr<Buffer> Allocate(int64_t bytes) = 0;
  // Once, when all weights are loaded: chooses how products of up to `max_rows`
  // rows are run. `progress` may be empty; it is called with 0 ... 1.
  virtual absl::Status Prepare(int64_t max_rows,
                               const std::function<void(double)>& progress) = 0;
  // What Allocate() could still give.
  virtual int64_t AvailableBytes() const = 0;
  // Host memory to the device; may be used again at once.
  virtual void Upload(const void* from, int64_t bytes, std::byte* to) = 0;
  // The device's memory to the host, after all that was queued.
  virtual void Download(const std::byte* from, int64_t bytes, void* to) = 0;
  // Within the device's memory, not during a step; the two do not overlap. What
  // fails shows in the next step.
  virtual void Copy(const std::byte* from, int64_t bytes, std::byte* to) = 0;

  // Around the operations of one forward pass. What spans and layouts hold that
  // are given in between stays as it is until the end, so that a device need
  // not copy it anew for every layer.
  virtual void BeginStep(RowGroups groups) = 0;
  // Waits for all that was queued. An error: the device failed, here or in an
  // operation, and nothing of the step may be used.
  virtual absl::Status EndStep() = 0;

  // output[r, :] = table[tokens[r], :] * scale. output: [tokens,
  // table.columns()].
  virtual void Embed(const Weight& table, absl::Span<const TokenId> tokens,
                     float scale, MatrixView output) = 0;
  // output[r, c] = input[r, c] / sqrt(mean_c(input[r, c]^2) + epsilon) *
  // gain[c]
  virtual void RmsNorm(ConstMatrixView input, const float* gain, float epsilon,
                       MatrixView output) = 0;
  // Likewise of some rows of input: output[i, :] of input[rows[i], :].
  virtual void RmsNormOf(absl::Span<const int32_t> rows, ConstMatrixView input,
                         const float* gain, float epsilon,
                         MatrixView output) = 0;
  // As RmsNorm, but output +=.
  virtual void AddRmsNorm(ConstMatrixView input, const float* gain,
                          float epsilon, MatrixView output) = 0;
  // output = input * weight^T, or output += if `accumulate`.
  // input: [rows, weight.columns()], output: [rows, weight.rows()].
  virtual void Linear(const Weight& weight, ConstMatrixView input,
                      RowGroups groups, bool accumulate, MatrixView output) = 0;
  virtual void RopeAndStore(const RopeAndStoreArgs& args) = 0;
  // Runs the rules on rotated queries and stored keys, this step's among them.
  // REQUIRES: `kv` keeps bounds of keys if a rule asks for them; the rules that
  // are used are of DeviceInfo::selection_rules.
  virtual void Select(const SelectArgs& args) = 0;
  virtual void Attention(const AttentionArgs& args) = 0;
  // In the columns of a correction's heads, attended[row] - output[row] is
  // added to output[row], output[row + 1], ... REQUIRES: no row has two
  // corrections of a head.
  virtual void Correct(const CorrectArgs& args) = 0;
  // Computes the weights of the tiles' rows once more, a block of keys at a
  // time, and adds them up.
  virtual void Profile(const ProfileArgs& args) = 0;
  // gate_up: [rows, 2 * n] with the gate first; output: [rows, n],
  // silu(gate) * up.
  virtual void SwiGlu(ConstMatrixView gate_up, MatrixView output) = 0;
  // Likewise with gelu(gate) * up, where gelu(x) = x / 2 * (1 + tanh(sqrt(2 /
  // pi) * (x + 0.044715 x^3))).
  virtual void GeGlu(ConstMatrixView gate_up, MatrixView output) = 0;
  // x becomes cap * tanh(x / cap), in place. REQUIRES: cap > 0.
  virtual void SoftCap(float cap, MatrixView values) = 0;
  // Draws a token of each row; once in a step. REQUIRES: DeviceInfo::samples.
  virtual void Sample(const SampleArgs& args) = 0;
};

}  // namespace sparseserve
