#include "engine/model/pruned_heads.h"

#include <algorithm>

#include "engine/base/str_cat.h"
#include "engine/model/model_config.h"

namespace sparseserve {

absl::Status PruneHeads(absl::Span<const PrunedHeads> pruned,
                        ModelConfig& config) {
  for (const PrunedHeads& heads : pruned) {
    if (heads.layer < 0 || heads.layer >= config.layers) {
      return absl::InvalidArgumentError(
          StrCat("prune_heads: layer is ", heads.layer, ", the model has 0 to ",
                 config.layers - 1));
    }
    std::vector<int32_t>& all =
        config.layer_configs[heads.layer].pruned_kv_heads;
    for (const int kv_head : heads.kv_heads) {
      if (kv_head < 0 || kv_head >= config.kv_heads) {
        return absl::InvalidArgumentError(
            StrCat("prune_heads: KV head of layer ", heads.layer, " is ",
                   kv_head, ", the model has 0 to ", config.kv_heads - 1));
      }
      all.push_back(kv_head);
    }
    std::sort(all.begin(), all.end());
    all.erase(std::unique(all.begin(), all.end()), all.end());
  }
  for (int32_t layer = 0; layer < config.layers; ++layer) {
    if (config.kv_head_count(layer) > 0) return absl::OkStatus();
  }
  return absl::InvalidArgumentError(StrCat("prune_heads: all ", config.kv_heads,
                                           " KV heads of all ", config.layers,
                                           " layers, must leave one"));
}

}  // namespace sparseserve
