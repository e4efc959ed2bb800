#!/usr/bin/env python3
"""Renders conversations with the chat templates of known model families in
Jinja, and encodes them with the tokenizers that generate.py made.

    venv/bin/pip install tokenizers==0.23.* jinja2==3.1.*
    venv/bin/python tests/golden/tokenizer_families/generate_chats.py

Writes chats/NAME.json beside this script: the template, the special tokens
that the family's tokenizer has to get for it, and messages with their ids.
"""

import json
import pathlib
import random

import jinja2
from tokenizers import AddedToken, Tokenizer

HERE = pathlib.Path(__file__).parent
SEED = 20251126

ALTERNATE = (
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate "
    "user/assistant/user/assistant/...') }}{% endif %}")

LLAMA2 = (
    "{% if messages[0]['role'] == 'system' %}"
    "{% set loop_messages = messages[1:] %}"
    "{% set system_message = messages[0]['content'] %}"
    "{% else %}{% set loop_messages = messages %}"
    "{% set system_message = false %}{% endif %}"
    "{% for message in loop_messages %}" + ALTERNATE +
    "{% if loop.index0 == 0 and system_message != false %}"
    "{% set content = '<<SYS>>\\n' + system_message + '\\n<</SYS>>\\n\\n' + "
    "message['content'] %}{% else %}{% set content = message['content'] %}"
    "{% endif %}{% if message['role'] == 'user' %}"
    "{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}"
    "{% elif message['role'] == 'assistant' %}"
    "{{ ' ' + content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}")

MISTRAL = (
    "{{ bos_token }}{% for message in messages %}" + ALTERNATE +
    "{% if message['role'] == 'user' %}"
    "{{ '[INST] ' + message['content'] + ' [/INST]' }}"
    "{% elif message['role'] == 'assistant' %}"
    "{{ message['content'] + eos_token }}{% else %}{{ raise_exception("
    "'Only user and assistant roles are supported!') }}{% endif %}"
    "{% endfor %}")
MISTRAL_FIRST = MISTRAL.replace("eos_token }}", "eos_token + ' ' }}")

TAKES_SYSTEM = """\
{%- if messages[0]["role"] == "system" %}
    {%- set system_message = messages[0]["content"] %}
    {%- set loop_messages = messages[1:] %}
{%- else %}
    {%- set loop_messages = messages %}
{%- endif %}

{{- bos_token }}
{%- for message in loop_messages %}
    {%- if message["role"] == "user" %}
"""
MISTRAL_SPACED = TAKES_SYSTEM + """\
        {%- if loop.first and system_message is defined %}
            {{- " [INST] " + system_message + "\\n\\n" + message["content"] + " [/INST]" }}
        {%- else %}
            {{- " [INST] " + message["content"] + " [/INST]" }}
        {%- endif %}
    {%- elif message["role"] == "assistant" %}
        {{- " " + message["content"] + eos_token }}
    {%- endif %}
{%- endfor %}
"""
MISTRAL_THIRD = TAKES_SYSTEM + """\
        {%- if loop.last and system_message is defined %}
            {{- "[INST] " + system_message + "\\n\\n" + message["content"] + "[/INST]" }}
        {%- else %}
            {{- "[INST] " + message["content"] + "[/INST]" }}
        {%- endif %}
    {%- elif message["role"] == "assistant" %}
        {{- " " + message["content"]|trim + eos_token }}
    {%- endif %}
{%- endfor %}
"""

ZEPHYR = """\
{% for message in messages %}
{% if message['role'] == 'user' %}
{{ '<|user|>\\n' + message['content'] + eos_token }}
{% elif message['role'] == 'system' %}
{{ '<|system|>\\n' + message['content'] + eos_token }}
{% elif message['role'] == 'assistant' %}
{{ '<|assistant|>\\n'  + message['content'] + eos_token }}
{% endif %}
{% if loop.last and add_generation_prompt %}
{{ '<|assistant|>' }}
{% endif %}
{% endfor %}"""

LLAMA3 = (
    "{% set loop_messages = messages %}{% for message in loop_messages %}"
    "{% set content = '<|start_header_id|>' + message['role'] + "
    "'<|end_header_id|>\\n\\n'+ message['content'] | trim + '<|eot_id|>' %}"
    "{% if loop.index0 == 0 %}{% set content = bos_token + content %}"
    "{% endif %}{{ content }}{% endfor %}{% if add_generation_prompt %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}")
LLAMA31 = """\
{{- bos_token }}
{%- if not date_string is defined %}
    {%- set date_string = "26 Jul 2024" %}
{%- endif %}

{#- This block extracts the system message, so we can slot it into the right place. #}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}

{{- "<|start_header_id|>system<|end_header_id|>\\n\\n" }}
{{- "Cutting Knowledge Date: December 2023\\n" }}
{{- "Today Date: " + date_string + "\\n\\n" }}
{{- system_message }}
{{- "<|eot_id|>" }}
{%- for message in messages %}
    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n'+ message['content'] | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
"""

GEMMA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}"
    "{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for message in messages %}" + ALTERNATE +
    "{% if (message['role'] == 'assistant') %}{% set role = 'model' %}"
    "{% else %}{% set role = message['role'] %}{% endif %}"
    "{{ '<start_of_turn>' + role + '\\n' + message['content'] | trim + "
    "'<end_of_turn>\\n' }}{% endfor %}{% if add_generation_prompt %}"
    "{{'<start_of_turn>model\\n'}}{% endif %}")
GEMMA3 = """\
{{ bos_token }}
{%- if messages[0]['role'] == 'system' -%}
    {%- set first_user_prefix = messages[0]['content'] + '\\n\\n' -%}
    {%- set loop_messages = messages[1:] -%}
{%- else -%}
    {%- set first_user_prefix = "" -%}
    {%- set loop_messages = messages -%}
{%- endif -%}
{%- for message in loop_messages -%}
    {%- if (message['role'] == 'assistant') -%}
        {%- set role = "model" -%}
    {%- else -%}
        {%- set role = message['role'] -%}
    {%- endif -%}
    {{ '<start_of_turn>' + role + '\\n' + (first_user_prefix if loop.first else "") }}
    {%- if message['content'] is string -%}
        {{ message['content'] | trim }}
    {%- endif -%}
    {{ '<end_of_turn>\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{'<start_of_turn>model\\n'}}
{%- endif -%}
"""

CHATML = (
    "{{ bos_token }}{% for message in messages %}{{ '<|im_start|>' + "
    "message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}"
    "{{ '<|im_start|>assistant\\n' }}{% endif %}")

# Name: template, family, special tokens to add, bos, eos, whether the first
# message may be the system's, whether any roles may follow each other.
TEMPLATES = {
    "llama2": (LLAMA2, "llama", [], "<s>", "</s>", True, False),
    "mistral_first": (MISTRAL_FIRST, "llama", [], "<s>", "</s>", False, False),
    "mistral": (MISTRAL, "metaspace", [], "<s>", "</s>", False, False),
    "mistral_spaced": (MISTRAL_SPACED, "metaspace", [], "<s>", "</s>", True,
                       False),
    "mistral_third": (MISTRAL_THIRD, "metaspace", ["[INST]", "[/INST]"],
                      "<s>", "</s>", True, False),
    "zephyr": (ZEPHYR, "llama", [], "<s>", "</s>", True, True),
    "llama3": (LLAMA3, "llama3", [], "<|begin_of_text|>", "<|eot_id|>", True,
               True),
    "llama31": (LLAMA31, "llama3", [], "<|begin_of_text|>", "<|eot_id|>", True,
                True),
    "gemma": (GEMMA, "gemma", ["<end_of_turn>"], "<bos>", "<eos>", False,
              False),
    "gemma3": (GEMMA3, "gemma", ["<end_of_turn>"], "<bos>", "<eos>", True,
               False),
    "chatml": (CHATML, "llama", ["<|im_start|>", "<|im_end|>"], "<s>",
               "<|im_end|>", True, True),
}


def read_document(family):
    """A family's tokenizer.json, as generate.py wrote it."""
    def read(name):
        text = (HERE / name / "tokenizer.json").read_text(encoding="utf-8")
        return json.loads(text)
    if family != "metaspace":
        return read(family)
    return {**read("llama"), **read("metaspace")}


def make_chats(rng, texts, takes_system, any_order):
    chats = [
        [("user", "What is the capital of France?")],
        [("user", "  Hi\n"), ("assistant", " Hello! "), ("user", "2+2=?")],
        [("user", "\u3000\x1c x \u00a0"), ("assistant", "\n\ny\t"),
         ("user", "z")],
    ]
    if takes_system:
        chats += [[("system", "Be terse."), ("user", "Hi")],
                  [("system", " \nBe kind.\n "), ("user", "\n a"),
                   ("assistant", "b"), ("user", "c ")]]
    if any_order:
        chats += [[("assistant", "I begin."), ("user", "no")],
                  [("user", "a"), ("system", "late"), ("user", "b")]]
    while len(chats) < 20:
        turns = []
        if takes_system and rng.random() < 0.4:
            turns.append(("system", rng.choice(texts)))
        for i in range(rng.choice([1, 3, 5])):
            turns.append((("user", "assistant")[i % 2], rng.choice(texts)))
        chats.append(turns)
    return chats


def render(template, messages, bos, eos):
    # The two settings with which chat templates are always run.
    environment = jinja2.Environment(trim_blocks=True, lstrip_blocks=True)

    def raise_exception(message):
        raise ValueError(message)

    environment.globals["raise_exception"] = raise_exception
    return environment.from_string(template).render(
        messages=messages, bos_token=bos, eos_token=eos,
        add_generation_prompt=True)


def main():
    rng = random.Random(SEED)
    with open(HERE.parent / "tokenizer" / "texts.jsonl") as file:
        texts = [json.loads(line)["text"] for line in file]
    # What would be a token of some template is left out.
    texts = [t for t in texts if t and len(t) < 60 and "<" not in t
             and "[" not in t and "\u2581" not in t]
    (HERE / "chats").mkdir(exist_ok=True)
    for name, row in TEMPLATES.items():
        template, family, specials, bos, eos, takes_system, any_order = row
        tokenizer = Tokenizer.from_str(json.dumps(read_document(family)))
        tokenizer.add_special_tokens([
            AddedToken(text, normalized=False, special=True)
            for text in specials])
        chats = []
        for turns in make_chats(rng, texts, takes_system, any_order):
            messages = [{"role": r, "content": c} for r, c in turns]
            prompt = render(template, messages, bos, eos)
            ids = tokenizer.encode(prompt, add_special_tokens=False).ids
            chats.append({"messages": turns, "ids": ids})
        document = {
            "template": template, "family": family, "bos_token": bos,
            "eos_token": eos, "chats": chats,
            "special_tokens": {t: tokenizer.token_to_id(t) for t in specials}}
        with open(HERE / "chats" / f"{name}.json", "w", encoding="ascii",
                  newline="\n") as out:
            json.dump(document, out, separators=(",", ":"))
            out.write("\n")
        print(f"{name}: {len(chats)} chats")


if __name__ == "__main__":
    main()
