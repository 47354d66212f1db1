#!/usr/bin/env python3
"""Interpolated modified Kneser-Ney over bytes or tokens: the baseline a trained model must beat.

    python3 tests/bench/kneser_ney.py data/text/austen.txt            # bits a byte, orders 1..5
    python3 tests/bench/kneser_ney.py data/text/austen.txt --check    # also: every distribution sums to 1
    python3 tests/bench/kneser_ney.py out/dataset                     # over the tokens of a dataset

Trains on the first 90 % of the file's bytes and scores each of the last 10 % given the bytes before
it (the training text's tail serves the first few); of a dataset, on its training split and its
validation split, also in bits a byte of text. Chen & Goodman, "An empirical study of smoothing
techniques for language modeling" (1998), section 3: raw counts at the highest order, below it the
number of distinct bytes seen to the left; three discounts an order from the counts of counts; every
order is interpolated with the one below, the lowest with the uniform distribution over all symbols.
"""
import argparse
import array
import collections
import json
import math
import pathlib
import sys

HEADER = 1024  # bytes before the tokens of an llm.c shard


def discounts(counts):
    """D1, D2, D3+ of one order: D_k = k - (k+1) Y n_{k+1}/n_k, with Y = n1/(n1 + 2 n2)."""
    n = collections.Counter(counts)
    if min(n[k] for k in (1, 2, 3, 4)) == 0:
        # Too few symbols to estimate from (single bytes, tiny texts): the classic constants.
        return (0.5, 1.0, 1.5)
    y = n[1] / (n[1] + 2 * n[2])
    estimates = [k - (k + 1) * y * n[k + 1] / n[k] for k in (1, 2, 3)]
    return tuple(min(max(estimate, 0.0), float(k)) for k, estimate in enumerate(estimates, 1))


class KneserNey:
    """p(symbol | context) with at most order - 1 symbols of context. Texts are bytes or tuples."""

    def __init__(self, text, order, symbols):
        self.order = order
        self.symbols = symbols
        grams = {k: collections.Counter(text[i : i + k] for i in range(len(text) - k + 1))
                 for k in range(1, order + 1)}
        self.counts = {order: grams[order]}
        for k in range(1, order):  # distinct left neighbours; a gram is its longer gram's tail
            self.counts[k] = collections.Counter(gram[1:] for gram in grams[k + 1])
        self.discounts = {k: discounts(counts.values()) for k, counts in self.counts.items()}
        self.total = collections.Counter()    # of context: the sum of its counts
        self.reserved = collections.Counter()  # of context: what its discounts took away
        for k, counts in self.counts.items():
            for gram, count in counts.items():
                self.total[gram[:-1]] += count
                self.reserved[gram[:-1]] += self.discounts[k][min(count, 3) - 1]

    def probability(self, context, symbol):
        """p(symbol | the last order - 1 of context), from the uniform distribution upwards."""
        p = 1 / self.symbols
        for k in range(1, min(self.order, len(context) + 1) + 1):
            history = context[len(context) - k + 1 :]
            total = self.total.get(history)
            if total is None:  # an unseen history: no longer one is known either
                break
            count = self.counts[k].get(history + symbol, 0)
            kept = count - self.discounts[k][min(count, 3) - 1] if count else 0.0
            p = (kept + self.reserved[history] * p) / total
        return p

    def bits(self, text, start):
        """Sum of -log2 p over text[start:]."""
        reach = self.order - 1
        return math.fsum(-math.log2(self.probability(text[max(0, i - reach) : i], text[i : i + 1]))
                         for i in range(start, len(text)))


def check(model):
    """The largest |sum of p - 1| over seen contexts of every length and some unseen ones."""
    kind = type(next(iter(model.total)))
    every = [kind([symbol]) for symbol in range(model.symbols)]
    by_length = collections.defaultdict(list)
    for context in sorted(model.total):
        by_length[len(context)].append(context)
    contexts = [context for same in by_length.values() for context in same[:: 1 + len(same) // (128000 // model.symbols)]]
    contexts += [kind(unseen) for unseen in (b"\0\xff\x80\7", b"\0e th", b"zqxj")]
    return len(contexts), max(
        abs(math.fsum(model.probability(context, symbol) for symbol in every) - 1)
        for context in contexts)


def read_text(path):
    """Symbols, where validation starts, how many symbols there are, bytes of text to validate."""
    text = path.read_bytes()
    start = len(text) * 9 // 10
    return text, start, 256, len(text) - start


def read_dataset(path):
    """The same of a folder that `nibble tokenize` wrote."""
    about = json.loads((path / "dataset.json").read_text())
    parts = []
    for split in ("train", "val"):
        tokens = array.array("H")
        for shard in sorted(path.glob(f"{split}_*.bin")):
            tokens.frombytes(shard.read_bytes()[HEADER:])
        parts.append(tuple(tokens))
    return parts[0] + parts[1], len(parts[0]), about["tokenizer"]["vocab_size"], about["val"]["text_bytes"]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("text", type=pathlib.Path, help="a text file, or a dataset's folder")
    parser.add_argument("--order", type=int, default=5, help="report orders 1 to this (default 5)")
    parser.add_argument("--check", action="store_true", help="verify that distributions sum to 1")
    arguments = parser.parse_args()
    read = read_dataset if arguments.text.is_dir() else read_text
    text, start, symbols, size = read(arguments.text)
    print(f"{arguments.text.name}: {symbols} symbols, {start} train, {len(text) - start} validate ({size} bytes)")
    for order in range(1, arguments.order + 1):
        model = KneserNey(text[:start], order, symbols)
        line = f"order {order}: {model.bits(text, start) / size:.4f} bits a byte"
        if arguments.check:
            contexts, error = check(model)
            line += f"; {contexts} contexts, |sum - 1| <= {error:.1e}"
            if error > 1e-9:
                sys.exit(f"{line}\nkneser_ney: a distribution does not sum to 1")
        print(line)


if __name__ == "__main__":
    main()
