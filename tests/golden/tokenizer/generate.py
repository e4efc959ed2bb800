#!/usr/bin/env python3
"""Makes the golden tokenisations with independent software.

    python3.11 -m venv venv
    venv/bin/pip install tokenizers==0.23.* gguf==0.19.* jinja2==3.1.*
    venv/bin/python generate.py path/to/SmolLM2-135M-Instruct.Q4_1.gguf

The tokenizer is built from the vocabulary and merges of the model file by the
rule of the model's own tokenizer.json (every numeric character alone, then
byte-level GPT-2 splitting, no unknown token), the chats by running the file's
own template in Jinja. Writes texts.jsonl and chats.jsonl beside this script.

Characters are drawn among those that Unicode 14 assigns (Python 3.11 knows
that version): later ones have categories that depend on the library's age.
"""

import json
import pathlib
import random
import sys
import unicodedata

import gguf
import jinja2
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

SEED = 20240607
CONTROL = 3  # token type in GGUF
HERE = pathlib.Path(__file__).parent


def load(path):
    fields = gguf.GGUFReader(path).fields
    return lambda key: fields[key].contents()


def build_tokenizer(field):
    tokens = field("tokenizer.ggml.tokens")
    types = field("tokenizer.ggml.token_type")
    merges = [tuple(m.split(" ")) for m in field("tokenizer.ggml.merges")]
    vocab = {token: i for i, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    specials = [t for t, kind in zip(tokens, types) if kind == CONTROL]
    tokenizer.add_special_tokens(
        [AddedToken(t, normalized=False, special=True) for t in specials]
    )
    assert tokenizer.get_vocab_size() == len(tokens)
    return tokenizer, specials


SCRIPTS = {
    "latin": "The quick brown fox; naïve façade, Straße, Ærøskøbing, "
    "ČŠŽ łódź İstanbul ﬁnance ŒUVRE Ǆ ǅ ª º",
    "greek": "Η γρήγορη αλεπού πηδά πάνω από τον τεμπέλη σκύλο· ΌΣΟΣ",
    "cyrillic": "Съешь же ещё этих мягких французских булок, да выпей чаю",
    "hebrew": "דג סקרן שט בים מאוכזב ולפתע מצא חברה שָׁלוֹם",
    "arabic": "نص حكيم له سر قاطع وذو شأن عظيم مكتوب ـ ﷺ",
    "devanagari": "ऋषियों को सताने वाले दुष्ट राक्षसों के राजा क्षत्रिय",
    "bengali": "আমি বাংলায় গান গাই ক্ষ",
    "tamil": "யாமறிந்த மொழிகளிலே தமிழ்மொழி போல் இனிது",
    "thai": "เป็นมนุษย์สุดประเสริฐเลิศคุณค่า",
    "lao": "ພາສາລາວ",
    "khmer": "ភាសាខ្មែរ",
    "burmese": "မြန်မာဘာသာ",
    "tibetan": "བོད་སྐད་",
    "georgian": "ქართული ენა ႠႡ ᲐᲑ",
    "armenian": "Հայերեն լեզու և",
    "amharic": "አማርኛ ቋንቋ ፩፪፫",
    "cherokee": "ᏣᎳᎩ ꭰꭱ",
    "mongolian": "ᠮᠣᠩᠭᠣᠯ\u180eᠬᠡᠯᠡ",
    "chinese": "我能吞下玻璃而不傷身體。中文测试,繁體字!「引號」",
    "japanese": "いろはにほへと ちりぬるを。カタカナ ﾊﾝｶｸ 漢字仮名交じり文々〆",
    "korean": "키스의 고유조건은 입술끼리 만나야 하고 ㄱㄴㄷ ㅏㅑ 각",
    "vietnamese": "Tiếng Việt có dấu: Việt Nam muôn năm",
    "gothic": "𐌰𐌱𐌲 𐌳𐌴",
    "egyptian": "𓀀𓀁𓂀",
    "cuneiform": "𒀀𒁀 𒐀𒐁",
    "math": "𝓗𝓮𝓵𝓵𝓸 ∀x∈ℝ: ⌈x⌉ = −⌊−x⌋, α≤β ∑∫√ 𝟘𝟙𝟚 ℵ₀ x² y³",
}
EMOJI = (
    "😀 😂 🤣 👍 👍🏽 👩‍💻 👨‍👩‍👧‍👦 🏳️‍🌈 🏴‍☠️ 🇩🇪 🇯🇵 ❤️ ❤ ☃️ 1️⃣ #️⃣ *️⃣ ©️ ™ 🧑🏿‍🚀 "
    "🫠 🦾 ✊🏻 👁️‍🗨️ ⚧️ ♾️ 🀄 🃏 ⌚︎ ⌚️"
).split(" ")
SPACES = [
    *" \t\n\r\x0b\x0c\x1c\x1f\x85\xa0\u1680\u180e\u2000\u2003\u2007\u2009",
    *"\u200a\u200b\u200c\u200d\u2028\u2029\u202f\u205f\u2060\u3000\ufeff",
    "\r\n",
]
CONTRACTIONS = (
    "I'm you're he's she'll they'd we've can't don't DON'T I'M O'Neil 'tis "
    "rock'n'roll it''s 's 't 're 've 'm 'll 'd 'S 'sa 'reX ''' I’m don’t "
    "'ll've y'all'd've"
).split(" ")
CODE = r"""
#include <vector>
int main(int argc, char** argv) { return argc > 1 ? 0x1F : -1; }
def f(x: int = 3) -> str: return f"{x:>10.3f}" if x else 'none'
    for (let i = 0; i < 10; ++i) { console.log(`${i}: ${a[i]}`); }
SELECT COUNT(*) FROM t WHERE a_b != 'x' AND c >= 10.5e-3; -- note
<div class="a b" id='c'>&nbsp;&lt;text&gt;</div><!-- done -->
{"key": [1, 2.5, -3e10, null, true], "k\u00e9y": "v\n"}
fn main() -> Result<(), Box<dyn Error>> { v.iter().map(|x| x*2); }
$ grep -rn 'foo.*bar' ./src | awk '{print $1}' >> /tmp/out.txt 2>&1
\documentclass{article} \begin{equation} e^{i\pi}+1=0 \end{equation}
https://example.com:8080/path/to?query=1&other=%20two#frag
user.name+tag@example.co.uk 192.168.0.1 fe80::1%eth0 2024-02-29T23:59:60Z
$1,234,567.89 100% 3.14159 1e-10 0b1010 0o755 1_000_000 +49 (0)30 1234567
__init__ snake_case camelCase PascalCase kebab-case SCREAMING_CASE x1y2z3
==== ---- **** //// ;;;; !!!??? ...... ,,,, (((()))) [[[]]] <<<>>> ~~~ |||
""".strip().split("\n")
PROSE = (
    "It was the best of times, it was the worst of times, it was the age of "
    "wisdom, it was the age of foolishness, it was the epoch of belief, it was "
    "the epoch of incredulity, it was the season of Light, it was the season "
    "of Darkness, it was the spring of hope, it was the winter of despair, we "
    "had everything before us, we had nothing before us."
).split(" ")


def assigned_characters():
    assert unicodedata.unidata_version == "14.0.0", "run with Python 3.11"
    return [
        chr(c)
        for c in range(0x110000)
        if unicodedata.category(chr(c)) not in ("Cn", "Cs", "Co")
    ]


def numerals(assigned):
    """The first and last of every run of consecutive numeric characters."""
    codes = [ord(c) for c in assigned if unicodedata.category(c)[0] == "N"]
    known = set(codes)
    edges = [c for c in codes if c - 1 not in known or c + 1 not in known]
    return [chr(c) for c in edges]


def make_drawers(rng, assigned, specials):
    """Functions that each draw one short fragment of text."""
    scripts = list(SCRIPTS.values())
    numeric = numerals(assigned)

    def part(text, least, most):
        begin = rng.randrange(len(text))
        return text[begin : begin + rng.randint(least, most)]

    def spaces():
        if rng.random() < 0.5:
            return rng.choice(SPACES) * rng.randint(1, 6)
        return "".join(rng.choices(SPACES, k=rng.randint(1, 5)))

    def near_special():
        special = rng.choice(specials)
        cut = rng.randint(1, len(special) - 1)
        return rng.choice([special[:cut], special[cut:], special.upper()])

    return [
        lambda: part(rng.choice(scripts), 1, 14),
        lambda: part(rng.choice(scripts), 1, 14),
        spaces,
        spaces,
        lambda: "".join(rng.choices(numeric, k=rng.randint(1, 4))),
        lambda: str(rng.randrange(10 ** rng.randint(1, 9))),
        lambda: part(rng.choice(CODE), 3, 25),
        lambda: " ".join(part(PROSE, 1, 5)),
        lambda: " ".join(part(PROSE, 1, 5)),
        lambda: rng.choice(EMOJI),
        lambda: rng.choice(CONTRACTIONS),
        near_special,
        lambda: "".join(rng.choices(assigned, k=rng.randint(1, 6))),
        lambda: "".join(chr(rng.randrange(0x250)) for _ in range(4)),
    ]


def make_texts(rng, specials):
    assigned = assigned_characters()
    texts = ["", *SCRIPTS.values(), *EMOJI, *CONTRACTIONS, *CODE]
    for numeral in numerals(assigned):
        texts.append(f"{numeral} a{numeral}b 7{numeral}  {numeral}")
    for space in SPACES:
        texts += [space, f"a{space}b", f"a {space}b", f"a{space} b"]
        texts += [space * 3, f"x{space * 3}y", f"1{space * 2}2", f"{space}'s"]
    texts += [f"a{chr(b)}b {chr(b)}" for b in range(32)] + ["\x7f", "\x00"]
    texts += ["a" * 300, " " * 100, "\n" * 50 + "x", "ab" * 100, "'" * 40]
    texts += ["1234567890" * 5, "🙂" * 20, "あ" * 60, "=" * 77, "e\u0301" * 20]
    drawers = make_drawers(rng, assigned, specials)
    while len(texts) < 2300:
        count = rng.randint(1, 7)
        glue = rng.choice(["", "", " "])
        texts.append(glue.join(rng.choice(drawers)() for _ in range(count)))
    texts += ["".join(rng.choices(assigned, k=8)) for _ in range(300)]
    return list(dict.fromkeys(texts))


def make_marked_texts(rng, specials, texts):
    """Texts with whole special tokens in them."""
    marked = specials + [a + b for a, b in zip(specials, specials[1:])]
    marked += [f" {s} " for s in specials] + [f"{s}\n\n{s}x" for s in specials]
    for _ in range(100):
        before, after = rng.choices(texts, k=2)
        marked.append(before[:30] + rng.choice(specials) + after[:30])
    return list(dict.fromkeys(marked))


def make_chats(rng, texts, specials):
    plain = [t for t in texts if not any(s in t for s in specials)]
    chats = [
        [("user", "What is the capital of France?")],
        [("system", "You are terse."), ("user", "Hi")],
        [("user", "Hi"), ("assistant", "Hello!"), ("user", "2+2=?")],
        [("user", "")],
        [("user", "\n\nleading and trailing \n")],
        [("user", "   ")],
        [("system", ""), ("user", "x")],
        [("assistant", "I begin."), ("user", "no")],
        [("user", "a"), ("system", "late system"), ("user", "b")],
    ]
    for _ in range(60):
        turns = [("system", rng.choice(plain))] if rng.random() < 0.4 else []
        for i in range(rng.randint(1, 4)):
            turns.append((("user", "assistant")[i % 2], rng.choice(plain)))
        chats.append(turns)
    return chats


def write(name, rows):
    with open(HERE / name, "w", encoding="ascii", newline="\n") as out:
        for row in rows:
            out.write(json.dumps(row, separators=(",", ":")) + "\n")


def main():
    field = load(sys.argv[1])
    tokenizer, specials = build_tokenizer(field)
    plain, _ = build_tokenizer(field)
    plain.encode_special_tokens = True  # special tokens are ordinary text

    def ids(text, parse_special):
        encoder = tokenizer if parse_special else plain
        return encoder.encode(text, add_special_tokens=False).ids

    rng = random.Random(SEED)
    texts = make_texts(rng, specials)
    marked = make_marked_texts(rng, specials, texts)
    rows = [{"text": t, "ids": ids(t, False)} for t in texts + marked]
    rows += [{"text": t, "special": True, "ids": ids(t, True)} for t in marked]
    write("texts.jsonl", rows)

    # The two settings with which chat templates are always run.
    environment = jinja2.Environment(trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(field("tokenizer.chat_template"))
    chats = []
    for turns in make_chats(rng, texts, specials):
        messages = [{"role": role, "content": text} for role, text in turns]
        prompt = template.render(messages=messages, add_generation_prompt=True)
        chats.append({"messages": turns, "ids": ids(prompt, True)})
    write("chats.jsonl", chats)
    print(f"{len(rows)} texts, {len(chats)} chats")


if __name__ == "__main__":
    main()
