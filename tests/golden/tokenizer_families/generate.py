#!/usr/bin/env python3
"""Makes small tokenizers of every family, and what independent software does
with them.

    python3.11 -m venv venv
    venv/bin/pip install tokenizers==0.23.* sentencepiece==0.2.* gguf==0.19.*
    venv/bin/python tests/golden/tokenizer_families/generate.py

The vocabularies are trained on texts of this repository; nothing is
downloaded. Each folder beside this script gets the files of a model
(tokenizer.json, and tokenizer.gguf where that form has its own rules) and
ids.txt, marked.jsonl and decoded.jsonl: see ../README.md.
"""

import io
import json
import pathlib
import random

import gguf
import sentencepiece
from sentencepiece import sentencepiece_model_pb2
from tokenizers import (AddedToken, Regex, Tokenizer, decoders, models,
                        normalizers, pre_tokenizers, processors, trainers)

HERE = pathlib.Path(__file__).parent
SEED = 20251125
VOCABULARY = 1500
MARK = "\u2581"  # stands for a space

CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
LLAMA3 = (CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
          r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")


def read_texts():
    """The texts that are encoded: those of ../tokenizer, the longest left
    out."""
    path = HERE.parent / "tokenizer" / "texts.jsonl"
    with open(path, encoding="ascii") as file:
        texts = list(dict.fromkeys(json.loads(line)["text"] for line in file))
    return [text for i, text in enumerate(texts)
            if i < 60 or len(text.encode()) <= 60]


def read_corpus(texts):
    """Lines to train on: prose, a text in each script, half of the others."""
    lines = []
    for path in sorted((HERE.parent / "logits" / "prose").glob("*.txt")):
        lines += path.read_text(encoding="utf-8").split("\n")
    lines += texts[:60] * 3
    return lines, lines + texts[60::2]


def special(text):
    return AddedToken(text, normalized=False, special=True)


def added(text):
    return AddedToken(text, normalized=False, special=False)


def train_byte_level(corpus, pre_tokenizer, normalizer, tokens):
    tokenizer = Tokenizer(models.BPE())
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(corpus, trainers.BpeTrainer(
        vocab_size=VOCABULARY, show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    tokenizer.add_tokens([t for t in tokens if not t.special])
    tokenizer.add_special_tokens([t for t in tokens if t.special])
    return tokenizer


def split_by(expression):
    return pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(expression), behavior="isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def make_gpt2(corpus):
    tokenizer = train_byte_level(
        corpus, pre_tokenizers.ByteLevel(add_prefix_space=False), None,
        [special("<|endoftext|>"), added("<tab>"), added("<tab>x")])
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    document = json.loads(tokenizer.to_str())
    # As older files have it.
    del document["model"]["type"]
    document["model"]["merges"] = [
        " ".join(merge) for merge in document["model"]["merges"]]
    return document


def begin_with(tokenizer, text):
    return processors.TemplateProcessing(
        single=f"{text} $A", pair=f"{text} $A {text} $B",
        special_tokens=[(text, tokenizer.token_to_id(text))])


def make_llama3(corpus):
    names = ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>",
             "<|end_header_id|>", "<|eot_id|>"]
    tokenizer = train_byte_level(corpus, split_by(LLAMA3), None,
                                 [special(name) for name in names])
    tokenizer.post_processor = processors.Sequence([
        processors.ByteLevel(trim_offsets=False),
        begin_with(tokenizer, names[0])])
    document = json.loads(tokenizer.to_str())
    # Words that no merges lead to.
    model = document["model"]
    model["ignore_merges"] = True
    words = {}
    for line in corpus:
        for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str(line):
            words[word] = words.get(word, 0) + 1
    often = sorted((w for w in words if w not in model["vocab"]),
                   key=lambda w: (-words[w], w))[:200]
    for word in often:
        model["vocab"][word] = len(model["vocab"])
    for token in document["added_tokens"]:
        token["id"] += len(often)
    begin = document["post_processor"]["processors"][1]
    begin["special_tokens"][names[0]]["ids"][0] += len(often)
    return document


def make_qwen2(corpus):
    tokenizer = train_byte_level(
        corpus, split_by(QWEN2), normalizers.NFC(),
        [special("<|endoftext|>"), special("<|im_start|>"),
         special("<|im_end|>"), added("<think>"), added("</think>")])
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    return json.loads(tokenizer.to_str())


def train_sentencepiece(corpus, **options):
    """A BPE model of SentencePiece, as its own format holds it."""
    lines = [line for line in corpus if "\n" not in line and "\0" not in line]
    file = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_writer=file, model_type="bpe",
        vocab_size=VOCABULARY + 500, character_coverage=0.995,
        byte_fallback=True, split_digits=True, num_threads=1,
        normalization_rule_name="identity", remove_extra_whitespaces=False,
        allow_whitespace_only_pieces=True, minloglevel=2, **options)
    model = sentencepiece_model_pb2.ModelProto()
    model.ParseFromString(file.getvalue())
    return model


def pair_merges(pieces):
    """Merges that do what the pieces' scores say, by rank."""
    ids = {piece.piece: i for i, piece in enumerate(pieces)}
    merges = []
    for piece in pieces:
        if piece.type != piece.NORMAL:
            continue
        for cut in range(1, len(piece.piece)):
            left, right = piece.piece[:cut], piece.piece[cut:]
            if left in ids and right in ids:
                merges.append((-piece.score, len(left), left, right))
    return [[left, right] for _, _, left, right in sorted(merges)]


def to_json(model, normalizer, pre_tokenizer, strips, begin):
    """The tokenizer.json of a SentencePiece model."""
    pieces = model.pieces
    tokenizer = Tokenizer(models.BPE(
        vocab={piece.piece: i for i, piece in enumerate(pieces)},
        merges=[tuple(merge) for merge in pair_merges(pieces)],
        unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    if pre_tokenizer is not None:
        tokenizer.pre_tokenizer = pre_tokenizer
    steps = [decoders.Replace(MARK, " "), decoders.ByteFallback(),
             decoders.Fuse()]
    if strips:
        steps.append(decoders.Strip(" ", 1, 0))
    tokenizer.decoder = decoders.Sequence(steps)
    tokenizer.add_tokens([added(piece.piece) for piece in pieces
                          if piece.type == piece.USER_DEFINED])
    tokenizer.add_special_tokens([
        special(piece.piece) for piece in pieces
        if piece.type in (piece.CONTROL, piece.UNKNOWN)])
    tokenizer.post_processor = begin_with(tokenizer, begin)
    return json.loads(tokenizer.to_str())


def to_gguf(model, path, adds_space):
    """The tokenizer keys of a GGUF file, as converters write them."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tokenizer_model("llama")
    writer.add_token_list([piece.piece for piece in model.pieces])
    writer.add_token_scores([piece.score for piece in model.pieces])
    # The numbers are the same in both formats.
    writer.add_token_types([piece.type for piece in model.pieces])
    writer.add_bos_token_id(model.trainer_spec.bos_id)
    writer.add_eos_token_id(model.trainer_spec.eos_id)
    writer.add_add_space_prefix(adds_space)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()


def write_sentencepiece(name, model, texts, rng, adds_space):
    """The GGUF form, with what SentencePiece itself makes of the texts."""
    folder = HERE / name
    folder.mkdir(exist_ok=True)
    to_gguf(model, folder / "tokenizer.gguf", adds_space)
    oracle = sentencepiece.SentencePieceProcessor(
        model_proto=model.SerializeToString())
    ids = [oracle.encode(text) for text in texts]
    write_packed(folder / "ids.txt", ids)
    rows = rng.sample(ids, 100)
    write_rows(folder / "decoded.jsonl",
               [{"ids": row, "text": oracle.decode(row)} for row in rows])
    print(f"{name}: {len(ids)} texts, {sum(map(len, ids))} ids")
    return ids


def encode_all(document, texts):
    """Ids of every text, with special tokens taken as plain text."""
    tokenizer = Tokenizer.from_str(json.dumps(document))
    tokenizer.encode_special_tokens = True
    return [tokenizer.encode(text, add_special_tokens=False).ids
            for text in texts]


def make_marked(document, texts, rng):
    """Texts with added tokens in them, parsed, and begun as a prompt is."""
    tokenizer = Tokenizer.from_str(json.dumps(document))
    names = [token["content"] for token in document["added_tokens"]]
    rows = []
    for i in range(90):
        parts = rng.choices(texts, k=2)
        text = parts[0][:20] + rng.choice(names) + parts[1][:20]
        if i % 3 == 0:
            text = rng.choice(names) + text + rng.choice(names)
        rows.append({"text": text, "ids": tokenizer.encode(text).ids})
    return rows


def make_decoded(document, texts, ids, rng):
    """Texts of ids that come from no text, and of ids of whole texts."""
    tokenizer = Tokenizer.from_str(json.dumps(document))
    size = tokenizer.get_vocab_size()
    rows = [rng.choices(range(size), k=rng.randint(1, 8)) for _ in range(150)]
    rows += rng.sample(ids, 50)
    decoded = [{"ids": row, "text": tokenizer.decode(row)} for row in rows]
    if not document["model"]["byte_fallback"]:
        return decoded
    # Of bytes that are no characters, this software makes a U+FFFD for each of
    # the run that they are in, which cannot be known when the first is shown.
    return [row for row in decoded if "\ufffd" not in row["text"]]


# Two of these are an id.
DIGITS = ("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/")


def packed(ids):
    return "".join(DIGITS[i // 64] + DIGITS[i % 64] for i in ids)


def write_packed(path, rows, base=None):
    """A line for each; "=" where it is the base's."""
    lines = ["=" if base and row == base[i] else packed(row)
             for i, row in enumerate(rows)]
    with open(path, "w", encoding="ascii", newline="\n") as out:
        out.writelines(line + "\n" for line in lines)


def write_rows(path, rows):
    with open(path, "w", encoding="ascii", newline="\n") as out:
        for row in rows:
            out.write(json.dumps(row, separators=(",", ":")) + "\n")


def write_family(name, document, texts, rng, base=None, part=None):
    """Ids are relative to `base`. Of the document `part` is written: members
    to replace in another family's."""
    folder = HERE / name
    folder.mkdir(exist_ok=True)
    with open(folder / "tokenizer.json", "w", encoding="utf-8") as out:
        json.dump(part or document, out, ensure_ascii=False, separators=(",", ":"))
        out.write("\n")
    ids = encode_all(document, texts)
    write_packed(folder / "ids.txt", ids, base)
    write_rows(folder / "marked.jsonl", make_marked(document, texts, rng))
    write_rows(folder / "decoded.jsonl",
               make_decoded(document, texts, ids, rng))
    print(f"{name}: {len(ids)} texts, {sum(map(len, ids))} ids")
    return ids


def main():
    rng = random.Random(SEED)
    texts = read_texts()
    prose, corpus = read_corpus(texts)
    write_family("gpt2", make_gpt2(corpus), texts, rng)
    write_family("llama3", make_llama3(corpus), texts, rng)
    write_family("qwen2", make_qwen2(corpus), texts, rng)

    mark = normalizers.Replace(" ", MARK)

    llama = train_sentencepiece(prose)
    ids = write_sentencepiece("llama_gguf", llama, texts, rng, adds_space=True)
    document = to_json(
        llama, normalizers.Sequence([normalizers.Prepend(MARK), mark]), None,
        True, "<s>")
    write_family("llama", document, texts, rng, ids)
    metaspace = to_json(
        llama, None, pre_tokenizers.Metaspace(MARK, "first", split=False),
        True, "<s>")
    part = {key: value for key, value in metaspace.items()
            if value != document[key]}
    write_family("metaspace", metaspace, texts, rng, ids, part)

    gemma = train_sentencepiece(
        prose, add_dummy_prefix=False, bos_piece="<bos>",
        eos_piece="<eos>", control_symbols=["<start_of_turn>"],
        user_defined_symbols=["\n", "\n\n", "<table>", MARK * 2, MARK * 3])
    ids = write_sentencepiece("gemma_gguf", gemma, texts, rng, adds_space=False)
    write_family("gemma", to_json(
        gemma, mark, pre_tokenizers.Split(" ", "merged_with_previous"), False,
        "<bos>"), texts, rng, ids)


if __name__ == "__main__":
    main()
