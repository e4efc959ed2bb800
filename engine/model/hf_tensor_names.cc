#include "engine/model/hf_tensor_names.h"

#include <algorithm>
#include <utility>

#include "engine/base/str_cat.h"

namespace sparseserve {
namespace {

struct NamePair {
  std::string_view hf;
  std::string_view engine;
};

constexpr NamePair kOutside[] = {
    {"model.embed_tokens.weight", "token_embd.weight"},
    {"model.norm.weight", "output_norm.weight"},
    {"lm_head.weight", "output.weight"}};
constexpr std::string_view kHfLayer = "model.layers.";
constexpr std::string_view kEngineLayer = "blk.";

// Of a layer, after its number.
constexpr NamePair kInLayer[] = {
    {"input_layernorm.weight", "attn_norm.weight"},
    {"self_attn.q_proj.weight", "attn_q.weight"},
    {"self_attn.k_proj.weight", "attn_k.weight"},
    {"self_attn.v_proj.weight", "attn_v.weight"},
    {"self_attn.q_norm.weight", "attn_q_norm.weight"},
    {"self_attn.k_norm.weight", "attn_k_norm.weight"},
    {"self_attn.o_proj.weight", "attn_output.weight"},
    {"mlp.gate_proj.weight", "ffn_gate.weight"},
    {"mlp.up_proj.weight", "ffn_up.weight"},
    {"mlp.down_proj.weight", "ffn_down.weight"},
};
// Where other families have these, transformers does not look at them.
constexpr NamePair kQwen2Biases[] = {
    {"self_attn.q_proj.bias", "attn_q.bias"},
    {"self_attn.k_proj.bias", "attn_k.bias"},
    {"self_attn.v_proj.bias", "attn_v.bias"},
};
// Gemma has norms before and after each half. What others call the norm after
// attention is before their MLP.
constexpr NamePair kGemmaNorms[] = {
    {"post_attention_layernorm.weight", "post_attention_norm.weight"},
    {"pre_feedforward_layernorm.weight", "ffn_norm.weight"},
    {"post_feedforward_layernorm.weight", "post_ffw_norm.weight"},
};
constexpr NamePair kOtherNorms[] = {
    {"post_attention_layernorm.weight", "ffn_norm.weight"},
};

using Side = std::string_view NamePair::*;

template <size_t kCount>
std::string_view FindIn(const NamePair (&pairs)[kCount], Side from, Side to,
                        std::string_view name) {
  for (const NamePair& pair : pairs) {
    if (pair.*from == name) return pair.*to;
  }
  return "";
}

bool IsGemma(Architecture architecture) {
  return architecture == Architecture::kGemma2 ||
         architecture == Architecture::kGemma3;
}

// The name on the other side, empty if there is none.
std::string Translate(Architecture architecture, std::string_view name,
                      bool to_engine) {
  const Side from = to_engine ? &NamePair::hf : &NamePair::engine;
  const Side to = to_engine ? &NamePair::engine : &NamePair::hf;
  const std::string_view from_layer = to_engine ? kHfLayer : kEngineLayer;
  const std::string_view to_layer = to_engine ? kEngineLayer : kHfLayer;
  if (name.substr(0, from_layer.size()) != from_layer) {
    return std::string(FindIn(kOutside, from, to, name));
  }
  const std::string_view rest = name.substr(from_layer.size());
  const size_t digits = std::min(rest.find('.'), rest.size());
  const std::string_view number = rest.substr(0, digits);
  if (digits == rest.size() || number.empty() ||
      number.find_first_not_of("0123456789") != std::string_view::npos) {
    return "";
  }
  const std::string_view part = rest.substr(digits + 1);
  std::string_view found = FindIn(kInLayer, from, to, part);
  if (found.empty()) {
    found = IsGemma(architecture) ? FindIn(kGemmaNorms, from, to, part)
                                  : FindIn(kOtherNorms, from, to, part);
  }
  if (found.empty() && architecture == Architecture::kQwen2) {
    found = FindIn(kQwen2Biases, from, to, part);
  }
  if (found.empty()) return "";
  return StrCat(to_layer, number, ".", found);
}

}  // namespace

std::optional<std::string> EngineTensorName(Architecture architecture,
                                            std::string_view hf_name) {
  std::string name = Translate(architecture, hf_name, /*to_engine=*/true);
  if (name.empty()) return std::nullopt;
  return name;
}

std::string HfTensorName(Architecture architecture,
                         std::string_view engine_name) {
  std::string name = Translate(architecture, engine_name, /*to_engine=*/false);
  return name.empty() ? std::string(engine_name) : name;
}

std::optional<std::string> StripTextPrefix(std::string_view hf_name) {
  // The first in each pair is transformers 4's way to write it.
  constexpr std::pair<std::string_view, std::string_view> kText[] = {
      {"language_model.model.", "model."},
      {"model.language_model.", "model."},
      {"language_model.lm_head.", "lm_head."}};
  constexpr std::string_view kImage[] = {"vision_tower.", "model.vision_tower.",
                                         "multi_modal_projector.",
                                         "model.multi_modal_projector."};
  for (const auto& [prefix, replacement] : kText) {
    if (hf_name.substr(0, prefix.size()) == prefix) {
      return StrCat(replacement, hf_name.substr(prefix.size()));
    }
  }
  for (const std::string_view prefix : kImage) {
    if (hf_name.substr(0, prefix.size()) == prefix) return std::nullopt;
  }
  return std::string(hf_name);
}

}  // namespace sparseserve
