"""Writes a small random checkpoint of each model family twice, as Hugging Face
folder and as GGUF file, and the logits that transformers computes from it.

    python tests/golden/architectures/generate.py [NAME ...]

needs torch, transformers, safetensors, gguf. See ../README.md for the files.
"""

import json
import pathlib
import sys

import gguf
import numpy as np
import torch
import transformers

HERE = pathlib.Path(__file__).resolve().parent
PROMPT_TOKENS = (1, 63, 64, 65, 300)
STEPS = 20
# Five times what the test allows: rounding must not choose the tokens.
LEAST_MARGIN = 0.005

SHAPE = dict(vocab_size=258, hidden_size=32, intermediate_size=32,
             num_hidden_layers=2, num_attention_heads=4,
             num_key_value_heads=2, max_position_embeddings=512,
             rms_norm_eps=1e-5, bos_token_id=None, eos_token_id=257,
             pad_token_id=None, tie_word_embeddings=True)
# Query and key columns that are not the hidden size.
WIDE = dict(head_dim=16)
WINDOW = dict(sliding_window=70)
PLAIN_ROPE = {"rope_type": "default", "rope_theta": 1000.0}
# Wavelengths of a head of 8: one below 512 / 32, one above 64, two between.
LLAMA3_ROPE = {"rope_type": "llama3", "rope_theta": 100.0, "factor": 8.0,
               "low_freq_factor": 1.0, "high_freq_factor": 4.0,
               "original_max_position_embeddings": 64}
LINEAR_ROPE = {"rope_type": "linear", "rope_theta": 1000.0, "factor": 4.0}
GEMMA3_ROPE = {
    "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
    "full_attention": {"rope_type": "linear", "rope_theta": 1000.0,
                       "factor": 8.0}}

# name: (GGUF architecture, configuration)
FAMILIES = {
    "llama": ("llama", transformers.LlamaConfig, dict(
        rope_parameters=PLAIN_ROPE, tie_word_embeddings=False)),
    "llama3": ("llama", transformers.LlamaConfig, dict(
        rope_parameters=LLAMA3_ROPE)),
    "llama-linear": ("llama", transformers.LlamaConfig, dict(
        rope_parameters=LINEAR_ROPE)),
    "mistral": ("llama", transformers.MistralConfig, dict(
        rope_parameters=PLAIN_ROPE, head_dim=8, **WINDOW)),
    "smollm3": ("smollm3", transformers.SmolLM3Config, dict(
        rope_parameters=PLAIN_ROPE, num_hidden_layers=4)),
    "qwen2": ("qwen2", transformers.Qwen2Config, dict(
        rope_parameters=PLAIN_ROPE, tie_word_embeddings=False)),
    "qwen3": ("qwen3", transformers.Qwen3Config, dict(
        rope_parameters=PLAIN_ROPE, **WIDE)),
    "gemma2": ("gemma2", transformers.Gemma2Config, dict(
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        query_pre_attn_scalar=16, attn_logit_softcapping=2.0,
        final_logit_softcapping=2.5, **WIDE, **WINDOW)),
    "gemma3": ("gemma3", transformers.Gemma3TextConfig, dict(
        rope_parameters=GEMMA3_ROPE, query_pre_attn_scalar=16,
        num_hidden_layers=6, **WIDE, **WINDOW)),
}


def random_value(name, shape, is_gemma, random):
    """Values that a bf16 holds, such that every part of a layer matters."""
    draw = torch.randn(shape, generator=random)
    if name.endswith("norm.weight"):
        draw = 0.3 * draw + (0.0 if is_gemma else 1.0)
        if is_gemma and "post_" in name:
            draw = draw + 2.0
    elif name.endswith(".bias"):
        draw = 0.7 * draw
    elif "embed_tokens" in name:
        # Small beside what the layers add: with the head tied to it, a text
        # would else repeat its last token.
        draw = draw * (0.15 if is_gemma else 0.3)
    elif "q_proj" in name or "k_proj" in name:
        draw = draw * 1.5 / shape[-1] ** 0.5
    else:
        draw = draw / shape[-1] ** 0.5
    return draw.to(torch.bfloat16).float()


def build_model(name, seed):
    _, config_class, changes = FAMILIES[name]
    config = config_class(**{**SHAPE, **changes})
    model = transformers.AutoModelForCausalLM.from_config(
        config, attn_implementation="eager", dtype=torch.float32)
    random = torch.Generator().manual_seed(seed)
    is_gemma = name.startswith("gemma")
    with torch.no_grad():
        for key, value in model.named_parameters():
            value.copy_(random_value(key, value.shape, is_gemma, random))
    return model.eval()


def margin(row):
    first, second = torch.topk(row, 2).values
    return float((first - second) / (row.max() - row.min()))


@torch.no_grad()
def run(model, seed):
    """Rows of logits: one for each prompt, then one for each greedy step after
    the last prompt. None if a step's choice is a close one, or the text is
    dull."""
    random = torch.Generator().manual_seed(1000 + seed)
    tokens = torch.randint(0, 256, (max(PROMPT_TOKENS),), generator=random)
    prompts = [tokens[:count].tolist() for count in PROMPT_TOKENS]
    rows = [model(torch.tensor([prompt])).logits[0, -1] for prompt in prompts]
    text = list(prompts[-1])
    chosen = []
    for _ in range(STEPS):
        if margin(rows[-1]) < LEAST_MARGIN:
            return None
        chosen.append(int(rows[-1].argmax()))
        text.append(chosen[-1])
        # The whole text every time: no cache of keys to be wrong.
        rows.append(model(torch.tensor([text])).logits[0, -1])
    if len(set(chosen)) < 5:
        return None
    return prompts, chosen, torch.stack(rows)


def adjacent_pairs(weight, heads):
    """Rows of q or k from halves to adjacent pairs, as llama.cpp's converter
    does for llama: row i + head_dim / 2 of a head comes after its row i."""
    shape = weight.shape
    return (weight.reshape(heads, 2, shape[0] // heads // 2, *shape[1:])
            .swapaxes(1, 2).reshape(shape))


def llama3_divisors(rope, head_dim):
    """What f(i) is divided by, after Llama 3.1's published rule."""
    pairs = np.arange(0, head_dim, 2, dtype=np.float64) / head_dim
    wavelengths = 2 * np.pi * rope["rope_theta"] ** pairs
    context = rope["original_max_position_embeddings"]
    low, high = rope["low_freq_factor"], rope["high_freq_factor"]
    smooth = np.clip((context / wavelengths - low) / (high - low), 0, 1)
    return (1 / ((1 - smooth) / rope["factor"] + smooth)).astype(np.float32)


def byte_tokens():
    """GPT-2's printable stand-ins of the 256 bytes."""
    prints = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = (byte for byte in range(256) if byte not in prints)
    stand_ins = {byte: 0x100 + n for n, byte in enumerate(others)}
    return [chr(stand_ins.get(byte, byte)) for byte in range(256)]


def add_metadata(writer, name, config):
    head_dim = getattr(config, "head_dim", None) or 8
    writer.add_name(name)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    if writer.arch in ("llama", "smollm3"):
        writer.add_vocab_size(config.vocab_size)
        writer.add_rope_dimension_count(head_dim)
    if name in ("mistral", "qwen3", "gemma2", "gemma3"):
        writer.add_key_length(head_dim)
        writer.add_value_length(head_dim)
    rope = config.rope_parameters
    rope = rope.get("full_attention", rope)
    if name != "gemma2":  # its converter leaves the base out
        writer.add_rope_freq_base(rope["rope_theta"])
    if rope["rope_type"] == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(rope["factor"])
    if name in ("mistral", "gemma2", "gemma3"):
        writer.add_sliding_window(config.sliding_window)
    if name == "gemma2":
        writer.add_attn_logit_softcapping(config.attn_logit_softcapping)
        writer.add_final_logit_softcapping(config.final_logit_softcapping)

    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(byte_tokens() + ["ab", "<|im_end|>"])
    writer.add_token_types([1] * 257 + [3])
    writer.add_token_merges(["a b"])
    writer.add_eos_token_id(257)


def write_gguf(path, name, model):
    config = model.config
    architecture = FAMILIES[name][0]
    writer = gguf.GGUFWriter(path, architecture)
    add_metadata(writer, name, config)
    names = gguf.get_tensor_name_map(
        next(key for key, value in gguf.MODEL_ARCH_NAMES.items()
             if value == architecture), config.num_hidden_layers)
    if config.rope_parameters.get("rope_type") == "llama3":
        writer.add_tensor("rope_freqs.weight",
                          llama3_divisors(config.rope_parameters, 8))
    for key, value in model.named_parameters():
        array = value.detach().numpy()
        if architecture in ("llama", "smollm3"):
            if "q_proj" in key:
                array = adjacent_pairs(array, config.num_attention_heads)
            elif "k_proj" in key:
                array = adjacent_pairs(array, config.num_key_value_heads)
        if name.startswith("gemma") and key.endswith("norm.weight"):
            array = array + 1
        gguf_name = names.get_name(key, try_suffixes=(".weight", ".bias"))
        if array.ndim == 1:
            writer.add_tensor(gguf_name, array.copy())
        else:
            kind = gguf.GGMLQuantizationType.BF16
            writer.add_tensor(gguf_name, gguf.quants.quantize(array, kind),
                              raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def generate(name):
    for seed in range(1000):
        model = build_model(name, seed)
        result = run(model, seed)
        if result is not None:
            break
    prompts, chosen, rows = result
    folder = HERE / name
    folder.mkdir(exist_ok=True)
    write_gguf(folder / "model.gguf", name, model)
    rows.numpy().astype("<f4").tofile(folder / "golden.bin")
    golden = {"transformers": transformers.__version__,
              "torch": torch.__version__, "seed": seed,
              "vocab_size": rows.shape[1], "prompts": prompts,
              "greedy": chosen}
    (folder / "golden.json").write_text(json.dumps(golden) + "\n")
    # Last: the values are exact in bf16, the logits above are FP32.
    model.to(torch.bfloat16).save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    print(f"{name}: seed {seed}, logits {float(rows.min()):.2f} ... "
          f"{float(rows.max()):.2f}, {len(set(chosen))} different tokens")


def main():
    for name in sys.argv[1:] or FAMILIES:
        generate(name)


if __name__ == "__main__":
    main()
