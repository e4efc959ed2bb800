"""Runs the sparse attention modules of transformers on small random weights in
FP64 and writes what goes in and comes out.

    python tests/golden/patterns/make_patterns.py [SYSTEM ...]

needs torch, transformers, safetensors. See ../README.md for the files.
"""

import contextlib
import json
import pathlib
import sys

import numpy as np
import torch
import transformers
from safetensors.numpy import save_file
from transformers.models.big_bird import modeling_big_bird as big_bird
from transformers.models.led import modeling_led as led
from transformers.models.longformer import modeling_longformer as longformer
from transformers.models.mistral import modeling_mistral as mistral
from transformers.models.reformer import modeling_reformer as reformer
from transformers.models.swin import modeling_swin as swin

HERE = pathlib.Path(__file__).resolve().parent
PEAK = 8
MOST_PROBED_KEYS = 16  # whole matrices of probabilities up to here


@contextlib.contextmanager
def wide_softmax():
    """Lets modules that cast their scores to FP32 keep FP64."""
    softmax = torch.nn.functional.softmax

    def keep(scores, dim=None, dtype=None):
        return softmax(scores, dim=dim)

    torch.nn.functional.softmax = keep
    try:
        yield
    finally:
        torch.nn.functional.softmax = softmax


def draw(shape, random, scale=1.0, grid=8):
    """Normal draws on a grid so coarse that projections are exact in FP32."""
    value = torch.randn(shape, generator=random, dtype=torch.float64) * scale
    return (value.clamp(-4 * scale, 4 * scale) * grid).round() / grid


def randomise(module, random, peaked, query_names):
    with torch.no_grad():
        for name, value in module.named_parameters():
            value.copy_(draw(value.shape, random, 0.35, 32))
            if peaked and any(part in query_names for part in name.split(".")):
                value.mul_(PEAK)
    return module.double().eval()


def attention_mask(count, pad, total):
    """1 for tokens, 0 for padding on the named side."""
    mask = torch.zeros(1, total, dtype=torch.float64)
    if pad == "left":
        mask[:, total - count:] = 1
    else:
        mask[:, :count] = 1
    return mask


def heads_first(rows, heads):
    """[1, n, heads * d] -> [heads, n, d]"""
    rows = rows.reshape(rows.shape[-2], heads, -1)
    return rows.permute(1, 0, 2).detach().numpy().astype(np.float64).copy()


class Stub(torch.nn.Module):
    """Stands for a projection: returns given rows, [n, features], in the
    order of the dimensions that it is called with."""

    def __init__(self, rows):
        super().__init__()
        self.rows = rows

    def forward(self, hidden):
        return self.rows.reshape(*hidden.shape[:-1], -1).clone()


def probe(run, module, names, n, heads, head_dim):
    """The module's matrix of probabilities, [heads, n, n], from its outputs for
    values that are columns of the identity. Keys that the module gathers
    several times are summed."""
    kept = {name: getattr(module, name) for name in names}
    columns = []
    for first in range(0, n, head_dim):
        rows = torch.eye(n, dtype=torch.float64)[:, first:first + head_dim]
        rows = torch.nn.functional.pad(rows, (0, head_dim - rows.shape[1]))
        for name in names:
            setattr(module, name, Stub(rows.repeat(1, heads)))
        columns.append(heads_first(run(), heads))
    for name in names:
        setattr(module, name, kept[name])
    return np.concatenate(columns, axis=-1)[..., :n]


def without_scores(module, names):
    """Zeroes the projections, so that all visible keys weigh the same."""
    with torch.no_grad():
        for name in names:
            for value in getattr(module, name).parameters():
                value.zero_()


def pack(visible):
    """Bits of a row, the first key lowest."""
    return np.packbits(visible, axis=-1, bitorder="little")


class Golden:
    """What becomes SYSTEM.json and SYSTEM.safetensors."""

    def __init__(self, system):
        self.system = system
        self.cases = []
        self.tensors = {}

    def add(self, name, parameters, tensors):
        print(f"  {self.system}/{name}")
        self.cases.append({"name": name, **parameters})
        for key, value in tensors.items():
            value = np.asarray(value)
            if value.dtype == np.float64 and key not in (
                    "output", "released", "probabilities"):
                narrow = value.astype(np.float32)
                if np.array_equal(narrow.astype(np.float64), value):
                    value = narrow
            elif value.dtype == np.int64:
                value = value.astype(np.int32)
            self.tensors[f"{name}/{key}"] = np.ascontiguousarray(value)

    def write(self):
        head = {"transformers": transformers.__version__,
                "torch": torch.__version__, "cases": self.cases}
        text = json.dumps(head).replace('{"name"', '\n{"name"')
        (HERE / f"{self.system}.json").write_text(text + "\n")
        save_file(self.tensors, HERE / f"{self.system}.safetensors")


# Longformer and the encoder of LED -----------------------------------------

PROJECTIONS = {"q": "query", "k": "key", "v": "value",
               "global_q": "query_global", "global_k": "key_global",
               "global_v": "value_global"}


def longformer_module(kind, windows, layer):
    shape = dict(attention_window=list(windows))
    if kind == "led":
        config = transformers.LEDConfig(
            d_model=16, encoder_attention_heads=2, encoder_layers=len(windows),
            **shape)
        return led.LEDEncoderSelfAttention(config, layer)
    config = transformers.LongformerConfig(
        hidden_size=16, num_attention_heads=2, num_hidden_layers=len(windows),
        attention_probs_dropout_prob=0.0, **shape)
    return longformer.LongformerSelfAttention(config, layer)


def longformer_case(golden, name, count, total, windows=(8,), layer=0,
                    pad="right", global_set=(), peaked=False):
    random = torch.Generator().manual_seed(1 + len(golden.cases))
    module = randomise(longformer_module(golden.system, windows, layer), random,
                       peaked, ("query", "query_global"))
    hidden = draw((1, total, 16), random)
    mask = attention_mask(count, pad, total)
    merged = (mask - 1) * 10000
    merged[:, list(global_set)] = 10000

    def run():
        return module(hidden, attention_mask=merged,
                      is_index_masked=merged < 0,
                      is_index_global_attn=merged > 0,
                      is_global_attn=bool((merged > 0).any()))[0]

    tensors = {key: heads_first(getattr(module, part)(hidden), 2)
               for key, part in PROJECTIONS.items()
               if global_set or not key.startswith("global")}
    tensors["released"] = heads_first(run(), 2)
    values = ("value", "value_global")
    with wide_softmax():
        tensors["output"] = heads_first(run(), 2)
        if total <= MOST_PROBED_KEYS:
            tensors["probabilities"] = probe(run, module, values, total, 2, 8)
        without_scores(module, ("query", "query_global"))
        tensors["visible"] = pack(probe(run, module, values, total, 2, 8) > 0)
    golden.add(name, dict(
        one_sided_window=windows[layer] // 2, global_set=list(global_set),
        real=mask[0].int().tolist()), tensors)


def make_longformer():
    golden = Golden("longformer")
    for count, total in ((1, 8), (3, 8), (4, 8), (5, 8), (8, 8), (9, 16),
                         (27, 32)):
        longformer_case(golden, f"right{count}", count, total)
    for count, total in ((1, 8), (5, 8), (27, 32)):
        longformer_case(golden, f"left{count}", count, total, pad="left",
                        global_set=(total - count,))
    for name, chosen in (("first", (0,)), ("random", (0, 5, 21)),
                         ("all", tuple(range(27)))):
        longformer_case(golden, f"global_{name}", 27, 32, global_set=chosen)
        longformer_case(golden, f"peaked_{name}", 13, 16, peaked=True,
                        global_set=tuple(i for i in chosen if i < 13))
    longformer_case(golden, "peaked_local", 32, 32, peaked=True)
    # The module fails on a window of 2.
    longformer_case(golden, "narrowest", 7, 8, windows=(4,), global_set=(3,))
    longformer_case(golden, "second_layer", 15, 16, windows=(4, 16), layer=1,
                    global_set=(1,))
    return golden


def make_longformer_blocks():
    """Sequences of more than one block of 64 tokens."""
    golden = Golden("longformer_blocks")
    longformer_case(golden, "right", 75, 80, windows=(20,))
    longformer_case(golden, "left", 90, 96, windows=(48,), pad="left",
                    global_set=(6, 64, 65, 90))
    longformer_case(golden, "peaked", 132, 132, windows=(44,),
                    global_set=(0, 70), peaked=True)
    return golden


def make_led():
    golden = Golden("led")
    longformer_case(golden, "plain", 16, 16)
    longformer_case(golden, "one_token", 1, 8, global_set=(0,))
    longformer_case(golden, "global", 21, 24, global_set=(0, 9))
    longformer_case(golden, "peaked", 13, 16, global_set=(0,), peaked=True)
    led_encoder_case(golden)
    return golden


def led_encoder_case(golden):
    """A whole encoder of one layer pads 13 tokens and merges both masks."""
    random = torch.Generator().manual_seed(99)
    config = transformers.LEDConfig(
        d_model=16, encoder_attention_heads=2, encoder_layers=1,
        attention_window=8, encoder_ffn_dim=16, vocab_size=32, dropout=0.0,
        max_encoder_position_embeddings=64)
    encoder = randomise(led.LEDEncoder(config), random, False, ())
    attention = encoder.layers[0].self_attn.longformer_self_attn
    seen = []
    handle = attention.register_forward_hook(
        lambda module, given, made: seen.append((given, made[0])),
        with_kwargs=False)
    inner = encoder.layers[0].self_attn.longformer_self_attn
    forward = inner.forward

    def record(*given, **named):
        seen.append(named.get("hidden_states", given[0] if given else None))
        return forward(*given, **named)

    inner.forward = record
    tokens = torch.randint(3, 32, (1, 13), generator=random)
    global_mask = torch.zeros_like(tokens)
    global_mask[0, 2] = 1
    mask = torch.ones_like(tokens)
    mask[0, 11:] = 0
    outputs = []
    for wide in (False, True):
        seen.clear()
        with wide_softmax() if wide else contextlib.nullcontext():
            encoder(input_ids=tokens, attention_mask=mask,
                    global_attention_mask=global_mask)
        hidden = seen[0]
        outputs.append(heads_first(seen[1][1], 2))
    handle.remove()
    tensors = {key: heads_first(getattr(attention, part)(hidden), 2)
               for key, part in PROJECTIONS.items()}
    tensors.update(released=outputs[0], output=outputs[1])
    golden.add("encoder", dict(
        one_sided_window=4, global_set=[2],
        real=[1] * 11 + [0] * (hidden.shape[1] - 11)), tensors)


# BigBird ---------------------------------------------------------------------

def big_bird_case(golden, name, n, block, random_blocks=3, count=None,
                  pad="right", peaked=False, trained=True, heads=2, head_dim=4,
                  positions=4096):
    random = torch.Generator().manual_seed(1 + len(golden.cases))
    size = heads * head_dim
    config = transformers.BigBirdConfig(
        hidden_size=size, num_attention_heads=heads, block_size=block,
        num_random_blocks=random_blocks, max_position_embeddings=positions,
        attention_probs_dropout_prob=0.0, use_bias=True)
    module = randomise(big_bird.BigBirdBlockSparseAttention(config, seed=3),
                       random, peaked, ("query",))
    module.train(trained)
    hidden = draw((1, n, size), random)
    mask = attention_mask(count or n, pad, n)
    blocked, band, rows, columns = (
        big_bird.BigBirdModel.create_masks_for_block_sparse_attn(mask, block))
    drawn = []
    gather = big_bird.BigBirdBlockSparseAttention.torch_gather_b2

    def record(blocks, indices):
        drawn.append(indices[0].numpy().copy())
        return gather(blocks, indices)

    module.torch_gather_b2 = record

    def run():
        return module(hidden, band_mask=band, from_mask=rows, to_mask=columns,
                      from_blocked_mask=blocked, to_blocked_mask=blocked)[0]

    tensors = {key: heads_first(getattr(module, PROJECTIONS[key])(hidden),
                                heads) for key in "qkv"}
    tensors["output"] = heads_first(run(), heads)
    tensors["random_blocks"] = drawn[-1].astype(np.int64)
    if n <= MOST_PROBED_KEYS:
        tensors["probabilities"] = probe(run, module, ("value",), n, heads,
                                         head_dim)
    # How often each block of keys is gathered, without padding.
    without_scores(module, ("query",))
    blocked, band, rows, columns = (
        big_bird.BigBirdModel.create_masks_for_block_sparse_attn(
            torch.ones_like(mask), block))
    weights = probe_blocks(run, module, n, block, heads, head_dim)
    tensors["gathered"] = weights.astype(np.uint8)
    drawn_by = dict(seed=3, most_tokens=positions) if trained else {}
    golden.add(name, dict(block=block, random_blocks=random_blocks, **drawn_by,
                          real=mask[0].int().tolist()), tensors)


def probe_blocks(run, module, n, block, heads, head_dim):
    """[heads, blocks, blocks]: gathers of a block of keys, from the weights of
    equal scores: the least weight is that of a block gathered once."""
    blocks = n // block
    value = module.value
    columns = []
    for first in range(0, blocks, head_dim):
        rows = torch.eye(blocks, dtype=torch.float64)[:, first:first + head_dim]
        rows = torch.nn.functional.pad(rows, (0, head_dim - rows.shape[1]))
        module.value = Stub(rows.repeat_interleave(block, 0).repeat(1, heads))
        columns.append(heads_first(run(), heads))
    module.value = value
    weights = np.concatenate(columns, axis=-1)[..., :blocks]
    weights = weights.reshape(heads, blocks, block, blocks)
    assert np.allclose(weights, weights[:, :, :1], atol=1e-14)
    weights = weights[:, :, 0]
    least = np.where(weights > 0, weights, 1).min(-1, keepdims=True)
    counts = weights / least
    assert np.allclose(counts, counts.round(), atol=1e-9)
    return counts.round()


def make_big_bird():
    golden = Golden("big_bird")
    # Below 2r + 6 blocks the plan has all; above, rows draw from the first
    # 2r + 5. With r + 6 to 2r + 5 the module mostly fails: too few are left.
    for blocks in (6, 8, 12, 16):
        big_bird_case(golden, f"blocks{blocks}", blocks * 4, 4,
                      random_blocks=1 if blocks == 6 else 3)
    big_bird_case(golden, "smallest", 12, 2, random_blocks=1)
    big_bird_case(golden, "right", 48, 4, count=37)
    big_bird_case(golden, "left", 48, 4, count=37, pad="left")
    big_bird_case(golden, "one_token", 48, 4, count=1)
    big_bird_case(golden, "peaked", 48, 4, peaked=True)
    big_bird_case(golden, "eval", 48, 4, trained=False)
    big_bird_case(golden, "eval_peaked", 48, 4, count=41, trained=False,
                  peaked=True)
    one = dict(heads=1, head_dim=4)
    big_bird_case(golden, "published", 768, 64, **one)
    big_bird_case(golden, "published_right", 832, 64, count=769, **one)
    big_bird_case(golden, "published_eval", 768, 64, trained=False, **one)
    # The plan of the paper's own lengths.
    big_bird_case(golden, "paper1024", 1024, 64, **one)
    big_bird_case(golden, "paper1024_short_model", 1024, 64, positions=1024,
                  **one)
    big_bird_case(golden, "paper1024_small_blocks", 1024, 128, positions=1024,
                  random_blocks=1, **one)
    return golden


# Reformer --------------------------------------------------------------------

def reformer_config(**changes):
    return transformers.ReformerConfig(
        hidden_size=16, num_attention_heads=2, attention_head_size=8,
        lsh_attention_probs_dropout_prob=0.0,
        local_attention_probs_dropout_prob=0.0, **changes)


def lsh_case(golden, name, n, hashes=1, buckets=4, causal=True, after=0,
             before=1, count=None, pad="right", peaked=False, chunk=8):
    random = torch.Generator().manual_seed(1 + len(golden.cases))
    config = reformer_config(
        lsh_attn_chunk_length=chunk, num_hashes=hashes, num_buckets=buckets,
        lsh_num_chunks_before=before, lsh_num_chunks_after=after,
        is_decoder=causal, hash_seed=7)
    module = randomise(reformer.LSHSelfAttention(config), random, peaked,
                       ("query_key",))
    hidden = draw((1, n, 16), random)
    mask = attention_mask(count or n, pad, n) if count else None
    kept = []

    def run():
        made = module(hidden, attention_mask=mask,
                      buckets=kept[0] if kept else None)
        kept[:] = [made.buckets] if made.buckets is not None else []
        return made.hidden_states

    tensors = {"q": heads_first(module.query_key(hidden), 2),
               "v": heads_first(module.value(hidden), 2),
               "output": heads_first(run(), 2)}
    if kept:
        rounds = kept[0]
        tensors["buckets"] = rounds[0].numpy().astype(np.int64)
        order, _ = module._get_sorted_bucket_idx_and_undo_sorted_bucket_idx(
            n, rounds.view(1, 2, -1), hashes)
        tensors["sorted"] = order[0].numpy().astype(np.int64)
    if n <= MOST_PROBED_KEYS:
        tensors["probabilities"] = probe(run, module, ("value",), n, 2, 8)
    without_scores(module, ("query_key",))
    tensors["visible"] = pack(probe(run, module, ("value",), n, 2, 8) > 0)
    golden.add(name, dict(chunk=chunk, rounds=hashes, before=before,
                          after=after, causal=causal,
                          real=[1] * n if mask is None
                          else mask[0].int().tolist()), tensors)


def make_reformer_lsh():
    golden = Golden("reformer_lsh")
    for n in (1, 7, 8):
        lsh_case(golden, f"dense{n}", n)
    lsh_case(golden, "dense_padded", 8, causal=False, count=5)
    for n in (16, 24, 32, 64):
        lsh_case(golden, f"causal{n}", n)
    for hashes in (2, 4):
        lsh_case(golden, f"causal_rounds{hashes}", 32, hashes=hashes)
        lsh_case(golden, f"free_rounds{hashes}", 24, hashes=hashes,
                 causal=False)
    lsh_case(golden, "factors", 48, hashes=2, buckets=[2, 4])
    lsh_case(golden, "after", 32, hashes=2, causal=False, after=1)
    # Both neighbours are the same chunk: its keys are gathered twice.
    lsh_case(golden, "twice", 16, causal=False, after=1)
    lsh_case(golden, "no_neighbours", 32, hashes=2, before=0)
    lsh_case(golden, "right", 32, hashes=2, count=23)
    lsh_case(golden, "left", 32, hashes=2, count=23, pad="left")
    lsh_case(golden, "free_right", 24, hashes=2, count=13, causal=False)
    lsh_case(golden, "peaked", 32, hashes=4, peaked=True)
    return golden


def make_reformer_blocks():
    """Chunks of the published size."""
    golden = Golden("reformer_blocks")
    lsh_case(golden, "causal", 192, hashes=2, chunk=64)
    lsh_case(golden, "free_left", 128, hashes=1, causal=False, count=90,
             pad="left", chunk=64, peaked=True)
    return golden


def local_case(golden, name, n, causal, before=1, after=0, count=None,
               pad="right", peaked=False, chunk=8):
    random = torch.Generator().manual_seed(1 + len(golden.cases))
    config = reformer_config(
        local_attn_chunk_length=chunk, local_num_chunks_before=before,
        local_num_chunks_after=after, is_decoder=causal)
    module = randomise(reformer.LocalSelfAttention(config), random, peaked,
                       ("query",))
    hidden = draw((1, n, 16), random)
    mask = attention_mask(count, pad, n) if count else None

    def run():
        return module(hidden, attention_mask=mask).hidden_states

    tensors = {key: heads_first(getattr(module, PROJECTIONS[key])(hidden), 2)
               for key in "qkv"}
    tensors["output"] = heads_first(run(), 2)
    if n <= MOST_PROBED_KEYS:
        tensors["probabilities"] = probe(run, module, ("value",), n, 2, 8)
    without_scores(module, ("query",))
    tensors["visible"] = pack(probe(run, module, ("value",), n, 2, 8) > 0)
    golden.add(name, dict(chunk=chunk, before=before, after=after,
                          causal=causal,
                          real=[1] * n if mask is None
                          else mask[0].int().tolist()), tensors)


def make_reformer_local():
    golden = Golden("reformer_local")
    for n in (1, 7, 8, 16, 24, 40):
        local_case(golden, f"causal{n}", n, True)
    local_case(golden, "free", 32, False)
    local_case(golden, "free_both", 32, False, after=1)
    local_case(golden, "twice", 16, False, after=1)
    local_case(golden, "right", 24, True, count=19)
    local_case(golden, "free_right", 24, False, count=19)
    local_case(golden, "free_left", 32, False, count=27, pad="left")
    local_case(golden, "peaked", 32, True, peaked=True)
    return golden


# Swin ------------------------------------------------------------------------

def swin_case(golden, name, height, width, window, shift, peaked=False):
    random = torch.Generator().manual_seed(1 + len(golden.cases))
    config = transformers.SwinConfig(window_size=window, embed_dim=8,
                                     attention_probs_dropout_prob=0.0,
                                     drop_path_rate=0.0,
                                     attn_implementation="eager")
    layer = randomise(swin.SwinLayer(config, 8, (height, width), 2, 0.0, shift),
                      random, peaked, ("q_proj",))
    layer.layernorm_before = torch.nn.Identity()
    hidden = draw((1, height * width, 8), random)
    seen = []
    layer.attention.o_proj.register_forward_pre_hook(
        lambda module, given: seen.append(given[0]))

    def run():
        weights = layer(hidden, (height, width))[1]
        return weights

    run()
    used, used_shift = layer.window_size, layer.shift_size
    padded, _ = layer.maybe_pad(hidden.view(1, height, width, 8), height, width)
    tall, wide = padded.shape[1:3]

    def unroll(windows):
        rows = swin.window_reverse(windows.reshape(-1, used, used, 8), used,
                                   tall, wide)
        return heads_first(layer.cyclic_shift(rows, reverse=True)
                           .reshape(1, tall * wide, 8), 2)

    attention = layer.attention
    flat = padded.reshape(1, tall * wide, 8)
    tensors = {key: heads_first(part(flat), 2) for key, part in (
        ("q", attention.q_proj), ("k", attention.k_proj),
        ("v", attention.v_proj))}
    tensors["bias"] = (attention.relative_position_bias
                       .relative_position_bias_table.detach().numpy().copy())
    tensors["released"] = unroll(seen[-1])
    with wide_softmax():
        weights = run()
        tensors["output"] = unroll(seen[-1])
        if tall * wide <= MOST_PROBED_KEYS:
            tensors["probabilities"] = scatter(layer, weights, tall, wide)
        without_scores(attention, ("q_proj",))
        with torch.no_grad():
            attention.relative_position_bias.relative_position_bias_table.zero_()
        # Keys of other regions keep exp(-100) of a weight.
        tensors["visible"] = pack(scatter(layer, run(), tall, wide)[:1] > 1e-30)
    golden.add(name, dict(height=height, width=width, window=window,
                          shift=shift, used_window=int(used),
                          used_shift=int(used_shift)), tensors)


def scatter(layer, weights, tall, wide):
    """Weights inside of windows -> [heads, n, n]."""
    places = torch.arange(tall * wide).view(1, tall, wide, 1)
    places = swin.window_partition(layer.cyclic_shift(places),
                                   layer.window_size).flatten(1)
    whole = np.zeros((weights.shape[1], tall * wide, tall * wide))
    for place, weight in zip(places.numpy(), weights.detach().numpy()):
        whole[:, place[:, None], place[None, :]] = weight
    return whole


def make_swin():
    golden = Golden("swin")
    swin_case(golden, "plain", 8, 8, 4, 0)
    swin_case(golden, "shifted", 8, 8, 4, 2)
    swin_case(golden, "shifted_peaked", 8, 8, 4, 2, peaked=True)
    swin_case(golden, "odd", 9, 6, 4, 2)
    swin_case(golden, "odd_plain", 5, 7, 4, 0)
    swin_case(golden, "one_window", 4, 4, 4, 2)
    swin_case(golden, "one_high", 4, 6, 4, 2)
    swin_case(golden, "shift_of_one", 6, 9, 3, 1)
    swin_case(golden, "published", 14, 14, 7, 3)
    swin_case(golden, "published_odd", 12, 10, 7, 3)
    return golden


def make_swin_blocks():
    """Windows of more than 64 places."""
    golden = Golden("swin_blocks")
    swin_case(golden, "shifted", 18, 16, 9, 4)
    swin_case(golden, "plain_peaked", 9, 10, 9, 4, peaked=True)
    return golden


# Mistral -----------------------------------------------------------------------

def mistral_case(golden, name, n, window, count=None, pad="left",
                 peaked=False):
    random = torch.Generator().manual_seed(1 + len(golden.cases))
    config = transformers.MistralConfig(
        vocab_size=32, hidden_size=16, intermediate_size=16,
        num_hidden_layers=1, num_attention_heads=4, num_key_value_heads=2,
        head_dim=4, sliding_window=window, attn_implementation="eager")
    model = randomise(mistral.MistralModel(config), random, peaked,
                      ("q_proj",))
    tokens = torch.randint(0, 32, (1, n), generator=random)
    mask = attention_mask(count or n, pad, n).long()
    seen = {}
    eager = mistral.eager_attention_forward

    def record(module, query, key, value, given, **named):
        output, weights = eager(module, query, key, value, given, **named)
        seen.update(q=query, k=key, v=value, mask=given, weights=weights,
                    output=output)
        return output, weights

    outputs = []
    mistral.eager_attention_forward = record
    for widen in (contextlib.nullcontext, wide_softmax):
        with widen():
            model(input_ids=tokens, attention_mask=mask)
        outputs.append(heads_first(seen["output"].flatten(2), 4))
    mistral.eager_attention_forward = eager
    tensors = {key: seen[key][0].detach().numpy().copy() for key in "qkv"}
    tensors.update(released=outputs[0], output=outputs[1])
    given = seen["mask"]
    visible = (np.tril(np.ones((1, n, n), bool)) if given is None
               else (given[0] == 0).numpy())
    tensors["visible"] = pack(visible)
    if n <= MOST_PROBED_KEYS:
        tensors["probabilities"] = seen["weights"][0].detach().numpy().copy()
    golden.add(name, dict(window=window, real=mask[0].tolist()), tensors)


def make_mistral():
    golden = Golden("mistral")
    for n in (1, 4, 5, 6, 10, 13):
        mistral_case(golden, f"length{n}", n, 5)
    mistral_case(golden, "one_key", 6, 1)
    mistral_case(golden, "left", 13, 5, count=9)
    mistral_case(golden, "right", 13, 5, count=9, pad="right")
    mistral_case(golden, "peaked", 32, 7, peaked=True)
    return golden


SYSTEMS = {"longformer": make_longformer,
           "longformer_blocks": make_longformer_blocks, "led": make_led,
           "big_bird": make_big_bird, "reformer_lsh": make_reformer_lsh,
           "reformer_local": make_reformer_local, "swin": make_swin,
           "reformer_blocks": make_reformer_blocks,
           "swin_blocks": make_swin_blocks,
           "mistral": make_mistral}


def main():
    with torch.no_grad():
        for name in sys.argv[1:] or SYSTEMS:
            SYSTEMS[name]().write()


if __name__ == "__main__":
    main()
