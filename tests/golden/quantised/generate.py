#!/usr/bin/env python3
"""Makes small quantised models and the logits that transformers gives them.

    pip install torch transformers gguf numpy && python generate.py

Writes beside this script a GGUF file for each model below, manifest.json and
logits.bin. The blocks of a tensor come from gguf's quantiser, or where it has
none are random bytes with half scales of a sane size; the reference model's
weights are what gguf.quants.dequantize makes of them, in FP32.
"""

import json
import pathlib

import gguf
import numpy as np
import torch
import transformers

SEED = 20251125
HERE = pathlib.Path(__file__).parent
VOCABULARY = 128
CONTEXT = 512
PROMPTS = (1, 63, 64, 65, 300)
GREEDY_PROMPT = 65
GREEDY_STEPS = 20
# A greedy step's margin over the range of its logits is at least this, so that
# rounding cannot change the token.
LEAST_MARGIN = 0.004

SMALL = dict(hidden=64, layers=2, heads=4, kv_heads=2, head_dim=16, mlp=96)
WIDE = dict(hidden=256, layers=1, heads=4, kv_heads=2, head_dim=16, mlp=64)
FULL = dict(hidden=256, layers=1, heads=4, kv_heads=1, head_dim=64, mlp=256)


def all_of(name):
    return lambda part, columns: name


def wide_of(name, narrow):
    """As llama.cpp: `narrow` where rows are no whole super-blocks."""
    return lambda part, columns: narrow if columns % 256 else name


def medium(part, columns):
    """As in a file that llama.cpp calls Q4_K_M."""
    return "Q6_K" if part in ("token_embd", "attn_v", "ffn_down") else "Q4_K"


MODELS = {
    "q8_0": (SMALL, all_of("Q8_0")),
    "q4_0": (SMALL, all_of("Q4_0")),
    "q4_1": (SMALL, all_of("Q4_1")),
    "q5_0": (SMALL, all_of("Q5_0")),
    "q5_1": (SMALL, all_of("Q5_1")),
    "q4_k": (WIDE, wide_of("Q4_K", "Q5_0")),
    "q5_k": (WIDE, wide_of("Q5_K", "Q5_1")),
    "q6_k": (WIDE, wide_of("Q6_K", "Q8_0")),
    "q4_k_m": (FULL, medium),
}

# Bytes of a super-block, then for each of its halves its place and the spread
# of the elements that random bytes and a scale of 1 give; a negative spread is
# that of the part which is subtracted.
SUPER_BLOCKS = {
    "Q4_K": (144, ((0, 255), (2, 255 / 7.5))),
    "Q5_K": (176, ((0, 520), (2, 520 / 15.5))),
    "Q6_K": (210, ((208, 1370),)),
}


def random_blocks(rng, name, rows, columns, spread):
    """Stored rows of a type that gguf cannot quantise to."""
    block_bytes, halves = SUPER_BLOCKS[name]
    shape = (rows, columns // 256)
    blocks = rng.integers(0, 256, (*shape, block_bytes), dtype=np.uint8)
    for place, unit in halves:
        scales = spread / unit * rng.uniform(0.7, 1.4, shape)
        half = scales.astype(np.float16)[..., None]
        blocks[..., place : place + 2] = half.view(np.uint8)
    return blocks.reshape(rows, -1)


def stored_matrix(rng, name, rows, columns, spread):
    if name in SUPER_BLOCKS:
        return random_blocks(rng, name, rows, columns, spread)
    values = rng.standard_normal((rows, columns)).astype(np.float32) * spread
    return gguf.quants.quantize(values, gguf.GGMLQuantizationType[name])


def tensors_of(rng, shape, type_of):
    """Yields (name, type name, stored)."""
    hidden, mlp = shape["hidden"], shape["mlp"]
    q_columns = shape["heads"] * shape["head_dim"]
    kv_columns = shape["kv_heads"] * shape["head_dim"]

    def norm(name):
        gain = rng.uniform(0.5, 1.5, hidden).astype(np.float32)
        return name + ".weight", "F32", gain

    def matrix(name, rows, columns):
        part = name.split(".")[-1]
        spread = 1 if part == "token_embd" else 1.5 / np.sqrt(columns)
        dtype = type_of(part, columns)
        stored = stored_matrix(rng, dtype, rows, columns, spread)
        return name + ".weight", dtype, stored

    yield matrix("token_embd", VOCABULARY, hidden)
    for layer in range(shape["layers"]):
        block = f"blk.{layer}."
        yield norm(block + "attn_norm")
        yield matrix(block + "attn_q", q_columns, hidden)
        yield matrix(block + "attn_k", kv_columns, hidden)
        yield matrix(block + "attn_v", kv_columns, hidden)
        yield matrix(block + "attn_output", hidden, q_columns)
        yield norm(block + "ffn_norm")
        yield matrix(block + "ffn_gate", mlp, hidden)
        yield matrix(block + "ffn_up", mlp, hidden)
        yield matrix(block + "ffn_down", hidden, mlp)
    yield norm("output_norm")


def write_gguf(path, shape, tensors):
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name(path.stem)
    writer.add_block_count(shape["layers"])
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(shape["hidden"])
    writer.add_feed_forward_length(shape["mlp"])
    writer.add_head_count(shape["heads"])
    writer.add_head_count_kv(shape["kv_heads"])
    writer.add_key_length(shape["head_dim"])
    writer.add_value_length(shape["head_dim"])
    writer.add_rope_dimension_count(shape["head_dim"])
    writer.add_rope_freq_base(10000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(VOCABULARY)
    # The bytes of ASCII that print, space as GPT-2's alphabet writes it, some
    # that it shifts, one merged pair, and two control tokens.
    alphabet = "\u0120" + "".join(map(chr, range(0x21, 0x7F)))
    alphabet += "".join(map(chr, range(0x100, 0x11E)))
    tokens = [*alphabet, "ab", "<|endoftext|>", "<|im_end|>"]
    assert len(tokens) == VOCABULARY
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([1] * (VOCABULARY - 2) + [3, 3])
    writer.add_token_merges(["a b"])
    writer.add_eos_token_id(VOCABULARY - 1)
    for name, dtype, stored in tensors:
        kind = gguf.GGMLQuantizationType[dtype]
        writer.add_tensor(name, stored, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def to_halves_order(matrix, heads):
    """From GGUF's order, where neighbours rotate together, to transformers'."""
    rows, columns = matrix.shape
    pairs = matrix.reshape(heads, rows // heads // 2, 2, columns)
    return pairs.swapaxes(1, 2).reshape(rows, columns)


NAMES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def reference(shape, tensors):
    config = transformers.LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=shape["hidden"],
        intermediate_size=shape["mlp"],
        num_hidden_layers=shape["layers"],
        num_attention_heads=shape["heads"],
        num_key_value_heads=shape["kv_heads"],
        head_dim=shape["head_dim"],
        max_position_embeddings=CONTEXT,
        rms_norm_eps=1e-5,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        tie_word_embeddings=True,
        attn_implementation="eager",
    )
    state = {}
    for name, dtype, stored in tensors:
        values = stored
        if dtype != "F32":
            kind = gguf.GGMLQuantizationType[dtype]
            values = gguf.quants.dequantize(stored, kind)
        part = name.split(".")[-2]
        if part == "attn_q":
            values = to_halves_order(values, shape["heads"])
        if part == "attn_k":
            values = to_halves_order(values, shape["kv_heads"])
        prefix = ""
        if name.startswith("blk."):
            prefix = f"model.layers.{name.split('.')[1]}."
        values = np.ascontiguousarray(values, np.float32)
        state[f"{prefix}{NAMES[part]}.weight"] = torch.from_numpy(values)
    state["lm_head.weight"] = state["model.embed_tokens.weight"]
    model = transformers.LlamaForCausalLM(config).eval().float()
    model.load_state_dict(state, strict=True)
    return model


def last_row(model, tokens):
    with torch.no_grad():
        return model(torch.tensor([tokens])).logits[0, -1].numpy()


def greedy(model, prompt):
    """Tokens that follow, and the rows that each of them gives."""
    tokens, rows = list(prompt), []
    row = last_row(model, tokens)
    for _ in range(GREEDY_STEPS):
        second, first = np.sort(row)[-2:]
        if (first - second) / (row.max() - row.min()) < LEAST_MARGIN:
            return None, None
        tokens.append(int(row.argmax()))
        row = last_row(model, tokens)
        rows.append(row)
    return tokens[len(prompt) :], rows


def main():
    torch.manual_seed(SEED)
    arrays, manifest = [], {"models": []}
    for index, (name, (shape, type_of)) in enumerate(MODELS.items()):
        rng = np.random.default_rng(SEED + index)
        tensors = list(tensors_of(rng, shape, type_of))
        write_gguf(HERE / f"{name}.gguf", shape, tensors)
        model = reference(shape, tensors)
        followers = None
        while followers is None:
            tokens = rng.integers(0, VOCABULARY - 2, max(PROMPTS)).tolist()
            followers, rows = greedy(model, tokens[:GREEDY_PROMPT])
        arrays += [last_row(model, tokens[:count]) for count in PROMPTS] + rows
        manifest["models"].append(
            {
                "name": name,
                "types": sorted({dtype for _, dtype, _ in tensors}),
                "tokens": tokens,
                "greedy_tokens": followers,
            }
        )
        print(name, manifest["models"][-1]["types"])
    manifest["prompts"] = PROMPTS
    manifest["greedy_prompt"] = GREEDY_PROMPT
    manifest["vocabulary"] = VOCABULARY
    manifest["versions"] = {
        module.__name__: module.__version__
        for module in (torch, transformers, np)
    }
    with open(HERE / "manifest.json", "w", encoding="ascii") as out:
        json.dump(manifest, out, separators=(",", ":"))
        out.write("\n")
    np.stack(arrays).astype("<f4").tofile(HERE / "logits.bin")


if __name__ == "__main__":
    main()
