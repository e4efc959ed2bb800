"""The independent reference: transformers' Llama in FP32 on the weights of a
GGUF file, dequantised by the gguf package.

Nothing here comes from sparseserve: what the two share is the model file.
Needs torch, transformers, tokenizers, gguf and numpy.
"""

import hashlib
import importlib.metadata
import platform

import gguf
import numpy as np
import tokenizers
import torch
import transformers

torch.set_num_threads(1)


def field(reader, key):
    return reader.fields[key].contents()


def sha256(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def versions():
    packages = ("torch", "transformers", "tokenizers", "gguf", "numpy")
    return {"python": platform.python_version()} | {
        name: importlib.metadata.version(name) for name in packages}


def split_halves(weight, heads):
    """GGUF interleaves the rows of q and k so that a rotary pair is (2i, 2i+1);
    transformers pairs (i, i + head_dim/2). Puts a matrix into its order."""
    rows, columns = weight.shape
    pairs = weight.reshape(heads, rows // heads // 2, 2, columns)
    return pairs.swapaxes(1, 2).reshape(rows, columns)


def load_config(reader):
    def arch(key):
        return field(reader, "llama." + key)

    if field(reader, "general.architecture") != "llama":
        raise ValueError("the reference is for the llama architecture only")
    return transformers.LlamaConfig(
        vocab_size=len(reader.fields["tokenizer.ggml.tokens"].data),
        hidden_size=arch("embedding_length"),
        intermediate_size=arch("feed_forward_length"),
        num_hidden_layers=arch("block_count"),
        num_attention_heads=arch("attention.head_count"),
        num_key_value_heads=arch("attention.head_count_kv"),
        max_position_embeddings=arch("context_length"),
        rms_norm_eps=arch("attention.layer_norm_rms_epsilon"),
        rope_parameters={
            "rope_type": "default",
            "rope_theta": arch("rope.freq_base"),
        },
        tie_word_embeddings=True,
        attention_bias=False,
        mlp_bias=False,
        attn_implementation="eager",
    )


def load_state(reader, config):
    """The state dict of LlamaForCausalLM, FP32."""
    names = {
        "attn_norm": "input_layernorm",
        "ffn_norm": "post_attention_layernorm",
        "attn_q": "self_attn.q_proj",
        "attn_k": "self_attn.k_proj",
        "attn_v": "self_attn.v_proj",
        "attn_output": "self_attn.o_proj",
        "ffn_gate": "mlp.gate_proj",
        "ffn_up": "mlp.up_proj",
        "ffn_down": "mlp.down_proj",
    }
    top = {"token_embd": "model.embed_tokens", "output_norm": "model.norm"}
    state = {}
    for tensor in reader.tensors:
        # Numpy order: [rows, columns].
        weight = gguf.dequantize(tensor.data, tensor.tensor_type)
        weight = weight.astype(np.float32)
        stem = tensor.name.removesuffix(".weight")
        if stem in top:
            name = top[stem]
        else:
            _, layer, part = stem.split(".")
            name = f"model.layers.{layer}.{names[part]}"
            if part == "attn_q":
                weight = split_halves(weight, config.num_attention_heads)
            if part == "attn_k":
                weight = split_halves(weight, config.num_key_value_heads)
        state[name + ".weight"] = torch.from_numpy(np.ascontiguousarray(weight))
    state["lm_head.weight"] = state["model.embed_tokens.weight"]
    return state


def load_model(path, dtype=torch.float32):
    reader = gguf.GGUFReader(path)
    config = load_config(reader)
    model = transformers.LlamaForCausalLM(config)
    # Strict: every parameter of the model is in the file and the reverse.
    model.load_state_dict(load_state(reader, config), strict=True)
    return model.to(dtype).eval()


def load_tokenizer(path):
    """The model's own rule: every digit alone, then byte-level splitting as
    GPT-2 does, then BPE; the file's control tokens are matched first."""
    reader = gguf.GGUFReader(path)
    tokens = field(reader, "tokenizer.ggml.tokens")
    merges = [tuple(m.split(" "))
              for m in field(reader, "tokenizer.ggml.merges")]
    control = int(gguf.TokenType.CONTROL)
    special = [t for t, kind in zip(
        tokens, field(reader, "tokenizer.ggml.token_type")) if kind == control]
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(
        vocab={token: i for i, token in enumerate(tokens)}, merges=merges))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Sequence([
        tokenizers.pre_tokenizers.Digits(individual_digits=True),
        tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False),
    ])
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    tokenizer.add_special_tokens(
        [tokenizers.AddedToken(t, special=True) for t in special])
    return tokenizer


@torch.inference_mode()
def logits(model, tokens, chunk_tokens=512):
    """Yields (first position, logits [n, vocab] as float32 numpy) over chunks
    of `tokens`, so that a long window's logits are never all in memory."""
    hidden = model.model(input_ids=torch.tensor([tokens])).last_hidden_state[0]
    for first in range(0, len(tokens), chunk_tokens):
        rows = model.lm_head(hidden[first:first + chunk_tokens])
        yield first, rows.float().numpy()


@torch.inference_mode()
def greedy(model, prompt, count):
    """Continues `prompt` by `count` tokens with a KV cache. Returns the tokens
    and the logits [count, vocab] that each was taken from."""
    cache = None
    feed, tokens, rows = list(prompt), [], []
    for _ in range(count):
        output = model(input_ids=torch.tensor([feed]), past_key_values=cache,
                       use_cache=True)
        cache = output.past_key_values
        row = output.logits[0, -1].float().numpy()
        rows.append(row)
        tokens.append(int(row.argmax()))
        feed = tokens[-1:]
    return tokens, np.stack(rows)
