#!/usr/bin/env python3
"""Writes bpe.json: what tiktoken's GPT-2 encoding makes of ordinary and adversarial text.

Needs the package tiktoken (made with 0.14.0) and no network: the vocabulary is data/gpt2's. Every
character there is, and lines of a megabyte: make_tiktoken.py.
"""

import json
import pathlib
import random

import tiktoken

HERE = pathlib.Path(__file__).resolve().parent
DATA = HERE.parent.parent / "data"
# The pattern of GPT-2's encoder.py.
PATTERN = r"""'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"""


def gpt2():
    visible = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [b for b in range(256) if b not in visible]
    byte_of = {chr(b): b for b in visible} | {chr(256 + i): b for i, b in enumerate(hidden)}
    vocab = json.loads((DATA / "gpt2/encoder.json").read_text("utf-8"))
    special = {"<|endoftext|>": vocab.pop("<|endoftext|>")}
    ranks = {bytes(byte_of[c] for c in token): rank for token, rank in vocab.items()}
    return tiktoken.Encoding("gpt2", pat_str=PATTERN, mergeable_ranks=ranks, special_tokens=special)


def texts():
    yield ""
    yield from ("Hello world", " Hello", "Hello ", "  two  spaces  ", "a\n\nb\r\n\tc", "\n" * 7 + "x")
    yield from ("don't we'll I'd they've we're I'm it's", "DON'T 'S 'll'll ''s", "'sting 'tis x's1's")
    yield from ("<|endoftext|>", "a<|endoftext|>b", "<|endoftext", "<|endoftext|><|endoftext|>")
    yield from ("1234567890 3.14159 1,000,000 ½ ٣ Ⅷ x2y3", "def f(x):\n    return x ** 2  # no\n")
    yield from ("naïve café e\u0301 Ångström", "中文没有空格。日本語のテキスト", "한국어 텍스트", "Привет, мир!")
    yield from ("👩‍👩‍👧‍👦 🇫🇷 😀😀", "שלום עולם مرحبا", "\u0000\u0001\x7f\ufeff\u200b\u180e x", "a\u00a0b\u2003c\u3000d\u0085e\u2028f")
    yield from ("\u180e\u180e's", "\u00a0\u00a0x \u00a0 x", "\x1c\x1d\x1e\x1f x")
    yield from ("a" * 3000, "ab" * 1500, " " * 300, " " * 300 + "x", "!" * 2000, "9" * 2000, "é" * 1000)
    book = (DATA / "text/austen.txt").read_text("utf-8")
    yield book[:12000]
    yield book[len(book) // 2 :][:12000]

    rng = random.Random(20240520)
    tricky = list(" \n\t\r'\u00a0\u3000\u180e\u200b\u0085sdmtlvreLL0123½٣.,!?-_é中한") + ["'s", "'ll", "'LL", "  ", "\r\n", "😀"]
    for _ in range(150):
        yield "".join(rng.choice(tricky) if rng.random() < 0.85 else chr(rng.randrange(32, 0x500)) for _ in range(rng.randrange(1, 40)))
    yield "".join(rng.choice("abcdefgh") for _ in range(4000))


def main():
    encoding = gpt2()
    cases = [{"text": text, "ids": encoding.encode_ordinary(text)} for text in texts()]
    (HERE / "bpe.json").write_text(json.dumps(cases, separators=(",", ":"), ensure_ascii=True).replace('},{"text"', '},\n{"text"') + "\n")


if __name__ == "__main__":
    main()
