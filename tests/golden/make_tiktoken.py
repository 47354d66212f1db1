#!/usr/bin/env python3
"""Writes tiktoken.json: checksums of what tiktoken's GPT-2 encoding makes of adversarial text.

Every code point in five contexts, by blocks; lines of a megabyte; invalid UTF-8; special tokens in
text. Needs the package tiktoken (made with 0.14.0, which knows Unicode 16) and no network.
"""

import array
import json
import pathlib
import random
import unicodedata
import zlib

import make_bpe
import tiktoken

HERE = pathlib.Path(__file__).resolve().parent
BLOCK = 4096
UNITS = ["a", "ab", "!", "?!", " ", "\n", " \n", "\u3000", "a\u1c89", "1\U00010d40", "9", "é", "中", "😀", "\u0301", "''",
         "a1", "!\u1c89", "\t x", "<|endoftext|>"]


def tokenizer():
    """As make_bpe's, but with the pattern that tiktoken ships: the same words, no deep stack on white space."""
    pattern = r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"""
    ranks = make_bpe.gpt2()._mergeable_ranks
    return tiktoken.Encoding("gpt2", pat_str=pattern, mergeable_ranks=ranks, special_tokens={"<|endoftext|>": 50256})


def checksum(ids):
    return zlib.crc32(array.array("H", ids).tobytes())


def of_code_point(c):
    return f"a{c}1{c} {c}! {c}{c}\n"


def broken(rng, characters):
    """Bytes of characters, of which some are lost, doubled or foreign."""
    data = bytearray("".join(rng.choice(characters) for _ in range(rng.randrange(1, 30))).encode())
    for _ in range(rng.randrange(1, 6)):
        at = rng.randrange(len(data) + 1)
        data[at : at + rng.randrange(2)] = rng.choice([b"", b"\xff", b"\xc0\xaf", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xe2\x82", b"\x80"])
    return bytes(data)


def encode_bytes(encoding, data):
    """Each run of bytes that is no UTF-8 is a word; what is between is encoded as it is."""
    ids, run = [], b""
    while data or run:
        good = valid_prefix(data)
        if run and (good or not data):
            ids += encoding._encode_single_piece(run)
            run = b""
        ids += encoding.encode_ordinary(good)
        data = data[len(good.encode()) :]
        run, data = run + data[:1], data[1:]
    return ids


def valid_prefix(data):
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        return data[: error.start].decode()


def main():
    encoding, rng = tokenizer(), random.Random(16)
    # Planes 4 to 13 hold no character.
    blocks = {}
    for begin in [*range(0, 0x40000, BLOCK), *range(0xE0000, 0x110000, BLOCK)]:
        points = (chr(c) for c in range(begin, begin + BLOCK) if not 0xD800 <= c < 0xE000)
        blocks[begin] = checksum(encoding.encode_ordinary("".join(map(of_code_point, points))))
    lines = [{"unit": unit, "count": (1 << 20) // len(unit.encode())} for unit in UNITS]
    for line in lines:
        ids = encoding.encode_ordinary(line["unit"] * line["count"])
        line |= {"tokens": len(ids), "crc32": checksum(ids)}

    categories = {}
    for c in range(0x20000):
        categories.setdefault(unicodedata.category(chr(c)), []).append(chr(c))
    del categories["Cs"]  # surrogates are no characters
    mixed = [rng.sample(characters, min(len(characters), 40)) for _, characters in sorted(categories.items())]
    texts = ["".join(rng.choice(rng.choice([*mixed, list(" \n'st")])) for _ in range(40)) for _ in range(200)]
    special = ["<|endoftext|>", "<|endoftext|", "<|", "|>", "endoftext", " ", "\n", "<|endofprompt|>", "<|im_start|>", "a"]
    texts += ["".join(rng.choice(special) for _ in range(rng.randrange(1, 12))) for _ in range(60)]
    data = [text.encode() for text in texts] + [broken(rng, sum(mixed, [])) for _ in range(200)]
    bytes_ = [{"hex": item.hex(), "ids": encode_bytes(encoding, item)} for item in data]
    assert all(encoding.decode_bytes(item["ids"]).hex() == item["hex"] for item in bytes_)
    whole = {"blocks": [[begin, crc] for begin, crc in blocks.items()], "lines": lines, "bytes": bytes_}
    (HERE / "tiktoken.json").write_text(json.dumps(whole, separators=(",", ":")).replace("},{", "},\n{") + "\n")


if __name__ == "__main__":
    main()
