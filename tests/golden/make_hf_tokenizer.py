#!/usr/bin/env python3
"""Writes hf_tokenizer.json: a tokenizer.json of Hugging Face's `tokenizers`, and what it makes of text.

Needs the package tokenizers (made with 0.23.3) and no network: the vocabulary is learned here.
Special tokens have the lowest ids and a place between, so that no id is what its order suggests.
"""

import json
import pathlib
import random

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

HERE = pathlib.Path(__file__).resolve().parent
SPECIAL = ["<pad>", "<|endoftext|>", "[MASK]"]


def texts(book):
    yield from ("", "Hello world", " don't we'll I'd they've", "DON'T 'S ''s", "  two  spaces  ", "a\n\nb\r\n\tc ")
    yield from ("naïve café 中文 Привет 😀 \u180e\u3000x\u00a0y", "1234 3.14 ½x2", "\u0000\x7f\ufeff", "aaaaaaa", "the" * 40)
    yield book[60000:62000]
    rng = random.Random(3)
    for _ in range(60):
        yield "".join(rng.choice(" \n\t'sdmtlvretheandA0½.,é中") for _ in range(rng.randrange(1, 60)))


def main():
    book = (HERE.parent.parent / "data/text/austen.txt").read_text("utf-8")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    trainer = trainers.BpeTrainer(vocab_size=600, special_tokens=SPECIAL[:2], show_progress=False,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator([book[:60000]], trainer)
    tokenizer.add_special_tokens(SPECIAL[2:])
    cases = [{"text": text, "ids": tokenizer.encode(text, add_special_tokens=False).ids} for text in texts(book)]
    whole = {"tokenizer": json.loads(tokenizer.to_str()), "cases": cases}
    (HERE / "hf_tokenizer.json").write_text(json.dumps(whole, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
