#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/layout/selection_rule.h"
#include "engine/model/pruned_heads.h"
#include "engine/step.h"
#include "engine/tokenizer/chat_template.h"
#include "engine/tokenizer/tokenizer.h"

namespace sparseserve {

// What the server may know of a loaded model.
struct ModelInfo {
  std::string name;          // the file's or directory's own, may be empty
  std::string architecture;  // "llama"
  std::string weight_dtype;  // dtype of most weights: "Q4_1"
  int64_t parameters = 0;
  int context_tokens = 0;
  int vocab_size = 0;
  int layers = 0;
  int heads = 0;
  int kv_heads = 0;
  int head_dim = 0;
  // [layers]: latest keys that a query of the layer sees, as the checkpoint has
  // it, 0 for all. Empty stands for 0 everywhere.
  std::vector<int> layer_windows;
  // Heads that are not computed, each layer that has any once, ascending; they
  // still count as heads above, and in maps of patterns.
  std::vector<PrunedHeads> pruned_heads;
  std::string chat_template;  // "chatml"; empty if the file's is not known
  // SHA-256 of the files that hold the weights, one after another: 64
  // hexadecimal digits, of a GGUF file what sha256sum says. Empty unless
  // Options::fingerprint_weights.
  std::string weights_sha256;
  // What the device can do besides attending to lists of blocks.
  SelectionRuleKinds selection_rules = SelectionRuleKinds::All();
  bool corrects_rows = true;       // rows by others that are attended twice
  bool profiles_attention = true;  // StepSlice::profile
  bool skips_blocks = true;        // blocks whose scores turn out negligible
};

struct MemoryUse {
  int64_t mapped_file_bytes = 0;  // length: what has copies is not held
  int64_t weights_bytes = 0;      // besides the mapped file
  int64_t kv_bytes = 0;
  int64_t activations_bytes = 0;
  int64_t summaries_bytes = 0;  // of kv_bytes: what selecting keeps of pages
};

// The one door: a loaded model on a device. Created by main; the serving loop's
// thread calls Step(); info(), tokenizer() and chat_template() are immutable
// and for any thread.
class Engine : public StepExecutor {
 public:
  struct Options {
    // A GGUF file, or a directory in the form of Hugging Face's libraries.
    std::string model_path;
    std::string device = "cpu";          // "auto", "cpu", "cuda"
    int threads = 0;                     // 0: one per available core
    std::string compute_dtype = "auto";  // "auto", "f32", "bf16"
    std::string simd = "auto";  // cap on the CPU path: "auto", "avx2", ...
    // Memory for KV pages, at least one context. 0: `host_kv_bytes` where the
    // device's memory is the host's; if that is 0 too, or of a GPU, the share
    // that the device takes of what is left when the model is loaded.
    int64_t kv_cache_bytes = 0;
    int64_t host_kv_bytes = 0;
    // Rows that one step may carry; 0: what suits the device, and at least a
    // page besides a row for all slices but one.
    int max_step_tokens = 512;
    int max_step_slices = 64;  // slices that one step may carry
    // Left out of the model. Not on devices other than the CPU.
    std::vector<PrunedHeads> pruned_heads;
    // Reads all weights once more for ModelInfo::weights_sha256.
    bool fingerprint_weights = false;
    // Holds the memory for StepSlice::recall and StepSlice::profile.
    bool measure_recall = false;
    // Monotonic seconds; stage times are 0 without it.
    std::function<double()> stopwatch;
    // Called during loading with a stage name and its share done, 0 ... 1.
    std::function<void(const char* stage, double done)> progress;
  };

  // INVALID_ARGUMENT names the option, its value and its range, or what is
  // wrong in the model file; NOT_FOUND if there is no file;
  // RESOURCE_EXHAUSTED if memory is short.
  static absl::StatusOr<std::unique_ptr<Engine>> Create(Options options);

  virtual const ModelInfo& info() const = 0;
  virtual const Tokenizer& tokenizer() const = 0;
  // Null if the model's template is not one of the known ones.
  virtual const ChatTemplate* chat_template() const = 0;
  // Number of KV pages: ids in slices are below it.
  virtual int kv_pages() const = 0;
  virtual int max_step_tokens() const = 0;  // 1 or more
  virtual MemoryUse memory() const = 0;
  // One line for the start-up log: device, SIMD path, dtype, threads.
  virtual std::string DeviceSummary() const = 0;
  virtual std::string device() const = 0;  // "cpu", "cuda"
  virtual std::string simd() const = 0;
  virtual std::string compute_dtype() const = 0;  // "f32", "bf16"
};

}  // namespace sparseserve
