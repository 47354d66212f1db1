#!/usr/bin/env python3
"""Nibble against eager PyTorch, f32, one small GPT-2 on the CPU, side by side.

    python3 tests/bench/cpu_training.py --nibble build/apps/nibble --threads 2 --rounds 3

6 layers, width 384, 6 heads, T = 256, batch 8, byte tokens, AdamW, clip 1. Rounds alternate between the
two programs so that a machine whose speed drifts slows both. Prints each round's median tokens/s after
warm-up, the ratio of the medians, and both losses of the first steps' mean (the models start from
different random weights of one distribution, so the losses agree only roughly: a check that both train).
Needs torch and numpy; Nibble's side reads the metrics.jsonl that `nibble train` writes.
"""
import argparse
import json
import math
import os
import statistics
import subprocess
import tempfile
import time

LAYERS, WIDTH, HEADS, T, BATCH, VOCAB = 6, 384, 6, 256, 8, 257


def run_nibble(args, tokens, folder, steps):
    config = {
        "data": {"path": tokens},
        "recipe": args.recipe,
        "model": {"layers": LAYERS, "width": WIDTH, "heads": HEADS, "context": T},
        "trainer": {"steps": steps, "batch": BATCH, "lr": 6e-4, "warmup": 10, "log_every": 1,
                    "eval_every": 0, "eval_batches": 1, "checkpoint_every": 0},
    }
    path = os.path.join(folder, "config.json")
    with open(path, "w") as f:
        json.dump(config, f)
    out = os.path.join(folder, f"run{time.monotonic_ns()}")
    subprocess.run([args.nibble, "train", "--config", path, "--output", out, "--threads", str(args.threads)],
                   check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    with open(os.path.join(out, "metrics.jsonl")) as f:
        rows = [r for r in map(json.loads, f) if "tokens_per_second" in r]
    return [r["tokens_per_second"] for r in rows], [r["loss"] for r in rows]


def run_torch(args, tokens, steps):
    import numpy as np
    import torch
    from torch import nn
    from torch.nn import functional as F

    torch.set_num_threads(args.threads)
    torch.manual_seed(1)

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.ln1, self.ln2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
            self.qkv, self.proj = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
            self.fc1, self.fc2 = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

        def forward(self, x):
            q, k, v = self.qkv(self.ln1(x)).split(WIDTH, dim=2)
            q, k, v = (z.view(BATCH, T, HEADS, WIDTH // HEADS).transpose(1, 2) for z in (q, k, v))
            a = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + self.proj(a.transpose(1, 2).reshape(BATCH, T, WIDTH))
            return x + self.fc2(F.gelu(self.fc1(self.ln2(x)), approximate="tanh"))

    class Gpt2(nn.Module):
        def __init__(self):
            super().__init__()
            self.wte, self.wpe = nn.Embedding(VOCAB, WIDTH), nn.Embedding(T, WIDTH)
            self.blocks = nn.ModuleList(Block() for _ in range(LAYERS))
            self.ln_f = nn.LayerNorm(WIDTH)
            for name, p in self.named_parameters():
                if p.dim() == 2:
                    residual = name.endswith(("proj.weight", "fc2.weight"))
                    nn.init.normal_(p, 0, 0.02 / math.sqrt(2 * LAYERS) if residual else 0.02)
                elif name.endswith("bias"):
                    nn.init.zeros_(p)

        def forward(self, ids, targets):
            x = self.wte(ids) + self.wpe(torch.arange(T))
            for block in self.blocks:
                x = block(x)
            logits = F.linear(self.ln_f(x), self.wte.weight)
            return F.cross_entropy(logits.view(-1, VOCAB), targets.view(-1))

    with open(os.path.join(tokens, "dataset.json")) as f:
        shard = json.load(f)["train"]["shards"][0]
    data = np.fromfile(os.path.join(tokens, shard), dtype=np.uint16)[512:].astype(np.int64)
    rng = np.random.default_rng(1)
    model = Gpt2()
    decay = [p for p in model.parameters() if p.dim() == 2]
    rest = [p for p in model.parameters() if p.dim() != 2]
    adam = torch.optim.AdamW([{"params": decay, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}],
                             lr=6e-4, betas=(0.9, 0.95))
    speeds, losses = [], []
    for step in range(steps):
        begin = time.perf_counter()
        for group in adam.param_groups:
            group["lr"] = 6e-4 * min(1, (step + 1) / 10)
        starts = rng.integers(0, len(data) - T - 1, BATCH)
        ids = torch.from_numpy(np.stack([data[s:s + T] for s in starts]))
        targets = torch.from_numpy(np.stack([data[s + 1:s + 1 + T] for s in starts]))
        loss = model(ids, targets)
        adam.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        adam.step()
        losses.append(loss.item())
        speeds.append(BATCH * T / (time.perf_counter() - begin))
    return speeds, losses


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nibble", default="build/apps/nibble")
    parser.add_argument("--text", default="data/text/austen.txt")
    parser.add_argument("--recipe", default="none")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=16)
    args = parser.parse_args()
    warmup = 4
    medians = {"nibble": [], "torch": []}
    with tempfile.TemporaryDirectory() as folder:
        tokens = os.path.join(folder, "tokens")
        subprocess.run([args.nibble, "tokenize", "--input", args.text, "--output", tokens, "--val-fraction", "0.1"],
                       check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for r in range(args.rounds):
            for name, run in (("nibble", lambda: run_nibble(args, tokens, folder, args.steps)),
                              ("torch", lambda: run_torch(args, tokens, args.steps))):
                speeds, losses = run()
                medians[name].append(statistics.median(speeds[warmup:]))
                print(f"round {r + 1}  {name:7s} {medians[name][-1]:8.0f} tok/s  "
                      f"loss {losses[0]:.3f} -> {losses[-1]:.3f}", flush=True)
    ours, theirs = (statistics.median(medians[n]) for n in ("nibble", "torch"))
    ratios = [a / b for a, b in zip(medians["nibble"], medians["torch"])]
    import torch
    print(f"nibble ({args.recipe}) {ours:.0f} tok/s, torch {torch.__version__} eager f32 {theirs:.0f} tok/s, "
          f"{args.threads} threads: ratio {ours / theirs:.3f} (rounds {', '.join(f'{x:.3f}' for x in ratios)})")


if __name__ == "__main__":
    main()
