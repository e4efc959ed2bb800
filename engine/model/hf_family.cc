#include "engine/model/hf_family.h"

#include <string>

#include "absl/status/status.h"
#include "engine/base/quoted.h"
#include "engine/base/str_cat.h"

namespace sparseserve {
namespace {

constexpr HfFamily kFamilies[] = {
    {.model_type = "llama",
     .architecture = Architecture::kLlama,
     .rope_base = 10000,
     .is_tied = false},
    // Llama's forward pass, with a window.
    {.model_type = "mistral",
     .architecture = Architecture::kLlama,
     .rope_base = 10000,
     .is_tied = false,
     .kv_heads = 8,
     .window_tokens = 4096},
    {.model_type = "smollm3",
     .architecture = Architecture::kSmolLm3,
     .rope_base = 2e6f,
     .is_tied = true,
     .kv_heads = 4},
    {.model_type = "qwen2",
     .architecture = Architecture::kQwen2,
     .rope_base = 10000,
     .is_tied = false,
     .kv_heads = 32,
     .window_tokens = 4096},
    {.model_type = "qwen3",
     .architecture = Architecture::kQwen3,
     .rope_base = 10000,
     .is_tied = false,
     .kv_heads = 32,
     .head_dim = 128,
     .window_tokens = 4096},
    {.model_type = "gemma2",
     .architecture = Architecture::kGemma2,
     .rope_base = 10000,
     .is_tied = true,
     .kv_heads = 4,
     .head_dim = 256,
     .window_tokens = 4096},
    {.model_type = "gemma3_text",
     .architecture = Architecture::kGemma3,
     .rope_base = 1e6f,
     .is_tied = true,
     .kv_heads = 4,
     .head_dim = 256,
     .window_tokens = 4096,
     .heads = 8,
     .vocab_size = 262208,
     .context_tokens = 131072},
};

}  // namespace

absl::StatusOr<HfFamily> FindHfFamily(std::string_view model_type) {
  std::string known;
  for (const HfFamily& family : kFamilies) {
    if (family.model_type == model_type) return family;
    known += StrCat(family.model_type, ", ");
  }
  return absl::UnimplementedError(StrCat("config.json: model_type is ",
                                         Quoted(model_type),
                                         ", known are: ", known, "gemma3"));
}

}  // namespace sparseserve
