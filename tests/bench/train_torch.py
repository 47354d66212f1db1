#!/usr/bin/env python3
"""PyTorch trains a GPT-2 of given sizes: what `nibble bench train` runs as a peer.

    nibble bench train --config gpt2.jsonnet --set data.path=TOKENS --set trainer.accumulation=1 --device cuda \\
        --peer "torch=python3 tests/bench/train_torch.py" --peer "torch fp8=python3 tests/bench/train_torch.py --fp8"

torch.compile, bf16 autocast with f32 weights, scaled_dot_product_attention, fused AdamW, clipping at 1; random tokens, prefetched.
--fp8: torchao's tensor-wise float8 linear layers (exit 1 where torchao is absent). Prints one JSON object a step.
"""
import argparse
import json
import sys
import time

import torch
import torch.nn.functional as F


class Block(torch.nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = torch.nn.LayerNorm(width), torch.nn.LayerNorm(width)
        self.qkv, self.proj = torch.nn.Linear(width, 3 * width), torch.nn.Linear(width, width)
        self.fc1, self.fc2 = torch.nn.Linear(width, 4 * width), torch.nn.Linear(4 * width, width)

    def forward(self, x):
        b, t, c = x.shape
        q, k, v = (y.view(b, t, self.heads, c // self.heads).transpose(1, 2)
                   for y in self.qkv(self.norm1(x)).split(c, 2))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(b, t, c)
        x = x + self.proj(y)
        return x + self.fc2(F.gelu(self.fc1(self.norm2(x)), approximate="tanh"))


class Gpt2(torch.nn.Module):
    def __init__(self, layers, heads, width, vocab, length):
        super().__init__()
        self.tokens, self.places = torch.nn.Embedding(vocab, width), torch.nn.Embedding(length, width)
        self.blocks = torch.nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.norm = torch.nn.LayerNorm(width)
        for p in self.parameters():
            if p.ndim >= 2:
                torch.nn.init.normal_(p, 0, 0.02)

    def forward(self, ids, targets):
        x = self.tokens(ids) + self.places.weight[: ids.shape[1]]
        for block in self.blocks:
            x = block(x)
        logits = F.linear(self.norm(x), self.tokens.weight)
        return F.cross_entropy(logits.view(-1, logits.shape[-1]), targets.view(-1))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("layers", "heads", "width", "vocab", "batch", "length", "accumulation", "steps"):
        parser.add_argument("--" + name, type=int, required=True)
    parser.add_argument("--fp8", action="store_true")
    args = parser.parse_args()
    torch.set_float32_matmul_precision("high")
    torch.manual_seed(1)
    model = Gpt2(args.layers, args.heads, args.width, args.vocab, args.length).cuda()
    if args.fp8:
        try:
            from torchao.float8 import convert_to_float8_training
        except ImportError:
            print("train_torch: --fp8 needs torchao", file=sys.stderr)
            return 1
        convert_to_float8_training(model.blocks)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    loss_of = torch.compile(model)

    def batch():
        return torch.randint(0, args.vocab, (2, args.batch, args.length)).pin_memory().cuda(non_blocking=True)

    tokens = args.batch * args.length * args.accumulation
    ids, targets = batch()
    last = time.monotonic()
    for step in range(1, args.steps + 1):
        total = 0.0
        for _ in range(args.accumulation):
            with torch.autocast("cuda", torch.bfloat16):
                loss = loss_of(ids, targets) / args.accumulation
            ids, targets = batch()
            loss.backward()
            total += loss.detach()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        value, now = float(total), time.monotonic()
        print(json.dumps({"step": step, "loss": value, "tokens_per_second": tokens / (now - last),
                          "memory_peak": torch.cuda.max_memory_allocated()}), flush=True)
        last = now
    return 0


if __name__ == "__main__":
    sys.exit(main())
