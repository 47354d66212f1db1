#!/usr/bin/env python3
"""PyTorch trains a GPT-2 of given sizes: what `nibble bench train` runs as a peer.

    nibble bench train --config gpt2.jsonnet --set data.path=TOKENS --set trainer.accumulation=1 --device cuda \\
        --peer "torch=python3 tests/bench/train_torch.py" --peer "torch fp8=python3 tests/bench/train_torch.py --fp8"

nanoGPT's recipe: torch.compile, bf16 autocast with f32 weights, scaled_dot_product_attention, fused AdamW, clipping at 1; random
tokens, prefetched; the host never waits for the step that it has just queued. Embedding, block and head are compiled each for
itself, so that twelve blocks are compiled once (--whole: the model in one piece; minutes).
--fp8: torchao's tensor-wise float8 linear layers (exit 1 where torchao is absent).
Prints one JSON object a step; memory_peak is what the allocator handed out.
"""
import argparse
import json
import sys

import torch
import torch.nn.functional as F


class Embed(torch.nn.Module):
    def __init__(self, width, vocab, length):
        super().__init__()
        self.tokens, self.places = torch.nn.Embedding(vocab, width), torch.nn.Embedding(length, width)

    def forward(self, ids):
        return self.tokens(ids) + self.places.weight[: ids.shape[1]]


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


class Head(torch.nn.Module):
    def __init__(self, weight):
        super().__init__()
        self.norm, self.weight = torch.nn.LayerNorm(weight.shape[1]), weight

    def forward(self, x, targets):
        logits = F.linear(self.norm(x), self.weight)
        return F.cross_entropy(logits.view(-1, logits.shape[-1]), targets.view(-1))


class Gpt2(torch.nn.Module):
    def __init__(self, layers, heads, width, vocab, length):
        super().__init__()
        self.embed = Embed(width, vocab, length)
        self.blocks = torch.nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.head = Head(self.embed.tokens.weight)
        for p in self.parameters():
            if p.ndim >= 2:
                torch.nn.init.normal_(p, 0, 0.02)

    def forward(self, ids, targets):
        x = self.embed(ids)
        for block in self.blocks:
            x = block(x)
        return self.head(x, targets)


def compiled(model, whole):
    if whole:
        return torch.compile(model)
    for part in (model.embed, *model.blocks, model.head):
        part.compile()
    return model


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("layers", "heads", "width", "vocab", "batch", "length", "accumulation", "steps"):
        parser.add_argument("--" + name, type=int, required=True)
    parser.add_argument("--fp8", action="store_true")
    parser.add_argument("--whole", action="store_true")
    return parser.parse_args()


class Rows:
    """Times by events; a step's row is printed when the next one has been queued."""

    def __init__(self, tokens):
        self.tokens, self.step, self.waiting = tokens, 0, None
        self.begin = self.mark()

    @staticmethod
    def mark():
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def queued(self, loss):
        self.flush()
        self.waiting = loss, self.mark()

    def flush(self):
        if self.waiting is None:
            return
        loss, end = self.waiting
        end.synchronize()
        self.step += 1
        seconds = self.begin.elapsed_time(end) / 1e3
        print(json.dumps({"step": self.step, "loss": float(loss), "tokens_per_second": self.tokens / seconds,
                          "memory_peak": torch.cuda.max_memory_allocated()}), flush=True)
        self.begin, self.waiting = end, None


def main():
    args = arguments()
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
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    others = [p for p in model.parameters() if p.ndim < 2]
    optimizer = torch.optim.AdamW([{"params": matrices, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}],
                                  lr=1e-4, betas=(0.9, 0.95), fused=True)
    loss_of = compiled(model, args.whole)

    def batch():
        return torch.randint(0, args.vocab, (2, args.batch, args.length)).pin_memory().cuda(non_blocking=True)

    rows = Rows(args.batch * args.length * args.accumulation)
    ids, targets = batch()
    for _ in range(args.steps):
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
        rows.queued(total)
    rows.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
