#!/usr/bin/env python3
"""Writes bpe_train.json: the merges that byte-pair encoding learns, found the slow and plain way.

Counts every pair anew for every merge. Of equally frequent pairs the one with the smaller ids is
merged; ids are GPT-2's for bytes, then the merges in order. Needs the package regex (made with
2026.11.15) and no network.
"""

import collections
import json
import pathlib
import random

import regex

HERE = pathlib.Path(__file__).resolve().parent
PATTERN = regex.compile(r"""'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+""")
VISIBLE = [*range(33, 127), *range(161, 173), *range(174, 256)]
BYTES = VISIBLE + [b for b in range(256) if b not in VISIBLE]
LETTER = {b: chr(b) if b in VISIBLE else chr(256 + i - len(VISIBLE)) for i, b in enumerate(BYTES)}


def merged(word, pair, token):
    out, i = [], 0
    while i < len(word):
        if tuple(word[i : i + 2]) == pair:
            out.append(token)
            i += 2
        else:
            out.append(word[i])
            i += 1
    return out


def learn(text, vocab_size):
    counts = collections.Counter(word.encode() for word in PATTERN.findall(text))
    words = [([BYTES.index(b) for b in word], count) for word, count in counts.items()]
    spelling = [LETTER[b] for b in BYTES]
    merges = []
    while len(spelling) < vocab_size - 1:
        pairs = collections.Counter()
        for word, count in words:
            for pair in zip(word, word[1:]):
                pairs[pair] += count
        if not pairs or max(pairs.values()) < 2:
            break
        pair = min(pairs, key=lambda p: (-pairs[p], p))
        merges.append(spelling[pair[0]] + " " + spelling[pair[1]])
        spelling.append(spelling[pair[0]] + spelling[pair[1]])
        words = [(merged(word, pair, len(spelling) - 1), count) for word, count in words]
    return merges


def cases():
    book = (HERE.parent.parent / "data/text/austen.txt").read_text("utf-8")
    yield book[:40000], 640
    yield "naïve café 中文中文 中文 Привет, мир! Привет 😀😀 😀\n\n\n\t\t  x 1234 1234 don't we'll " * 3, 400
    yield "a", 300
    yield "ab" * 50, 300
    rng = random.Random(7)
    for letters in ("a", "ab", "ab ", "abc \n", "é中a "):
        for _ in range(12):
            yield "".join(rng.choice(letters) for _ in range(rng.randrange(2, 300))), rng.randrange(257, 340)


def main():
    found = [{"text": text, "vocab_size": size, "merges": learn(text, size)} for text, size in cases()]
    found[0]["text"] = 40000  # characters of data/text/austen.txt
    (HERE / "bpe_train.json").write_text(json.dumps(found, separators=(",", ":")).replace('},{"text"', '},\n{"text"') + "\n")


if __name__ == "__main__":
    main()
