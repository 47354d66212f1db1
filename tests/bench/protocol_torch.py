#!/usr/bin/env python3
"""The baseline control's other side: PyTorch trains GPT-2 small on Nibble's own batches, from Nibble's own weights.

    python3 tests/bench/protocol_torch.py --nibble NIBBLE --dump BATCH_DUMP --data TOKENS --out OUT --seeds 1 2 3

For each seed `nibble train` writes the initial weights, `nibble export` hands them over, and batch_dump writes the
batches of apps/configs/gpt2_protocol.jsonnet. The model below is torch.compile'd under bf16 autocast with f32 weights,
fused AdamW, and the same schedule, decay and clipping. OUT/torch-SEED gets run.json and metrics.jsonl in the form of a
Nibble run, so that `nibble report` and `nibble compare` read both.
"""
import argparse
import json
import math
import pathlib
import shutil
import statistics
import subprocess
import time

import numpy
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

BATCH, LENGTH, ROWS = 32, 1024, 50304
LR, FLOOR, WARMUP, DECAY, BETAS, EPSILON, CLIP = 6e-4, 0.1, 100, 0.1, (0.9, 0.95), 1e-8, 1.0
LAYERS, WIDTH, HEADS = 12, 768, 12


class Model(torch.nn.Module):
    """GPT-2 with tied embeddings; weights [out, in]."""

    def __init__(self, weights, seed):
        super().__init__()
        torch.manual_seed(seed)
        self.p = torch.nn.ParameterDict()
        for name, value in weights.items():
            if name.endswith((".attn.bias", ".attn.masked_bias")):
                continue
            name = name.removeprefix("transformer.")
            if name == "wte.weight":  # rows beyond the vocabulary: drawn here, since an export leaves them out
                rows = torch.empty(ROWS, WIDTH).normal_(0, 0.02)
                rows[: len(value)] = value
                value = rows
            elif value.ndim == 2 and name.startswith("h."):
                value = value.T  # transformers' Conv1D is [in, out]
            self.p[name.replace(".", "/")] = torch.nn.Parameter(value.float().contiguous().cuda())

    def linear(self, x, name):
        return F.linear(x, self.p[name + "/weight"], self.p[name + "/bias"])

    def norm(self, x, name):
        return F.layer_norm(x, (WIDTH,), self.p[name + "/weight"], self.p[name + "/bias"], 1e-5)

    def forward(self, ids, targets):
        b, t = ids.shape
        x = self.p["wte/weight"][ids] + self.p["wpe/weight"][:t]
        for i in range(LAYERS):
            h = f"h/{i}/"
            qkv = self.linear(self.norm(x, h + "ln_1"), h + "attn/c_attn").split(WIDTH, 2)
            q, k, v = (y.view(b, t, HEADS, WIDTH // HEADS).transpose(1, 2) for y in qkv)
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(b, t, WIDTH)
            x = x + self.linear(y, h + "attn/c_proj")
            y = F.gelu(self.linear(self.norm(x, h + "ln_2"), h + "mlp/c_fc"), approximate="tanh")
            x = x + self.linear(y, h + "mlp/c_proj")
        logits = F.linear(self.norm(x, "ln_f"), self.p["wte/weight"])
        return F.cross_entropy(logits.float().view(b * t, ROWS), targets.view(b * t), ignore_index=-1, reduction="sum")


def rate(step, steps):
    if step < WARMUP:
        return LR * (step + 1) / WARMUP
    progress = min((step - WARMUP) / max(steps - WARMUP, 1), 1)
    return FLOOR * LR + 0.5 * (LR - FLOOR * LR) * (1 + math.cos(math.pi * progress))


def batches(path):
    """[n, 2, BATCH, LENGTH]: inputs and targets."""
    return numpy.memmap(path, numpy.int32, "r").reshape(-1, 2, BATCH, LENGTH)


def on_gpu(pair):
    ids, targets = torch.from_numpy(pair.astype(numpy.int64)).pin_memory().cuda(non_blocking=True)
    return ids, targets


def train(args, seed, compiled):
    work = args.out / f"work-{seed}"
    run = args.out / f"torch-{seed}"
    run.mkdir(parents=True, exist_ok=True)
    first = [args.nibble, "train", "--config", "gpt2_protocol.jsonnet", "--set", f"data.path={args.data}", "--set",
             f"trainer.seed={seed}", "--set", "trainer.steps=1", "--set", "trainer.lr=1e-30", "--set",
             "trainer.weight_decay=0", "--set", "trainer.batch=1", "--set", "data.sequence=8", "--set",
             "trainer.eval_batches=1", "--device", "cuda", "--output", work / "init"]
    subprocess.run(first, check=True, stderr=subprocess.DEVNULL)
    subprocess.run([args.nibble, "export", work / "init", "--output", work / "hf"], check=True,
                   stdout=subprocess.DEVNULL)
    for split, file in (("train", work / "train.i32"), ("val", work / "val.i32")):
        subprocess.run([args.dump, args.data, split, file, str(BATCH), str(LENGTH), str(args.steps), str(seed)],
                       check=True)
    model = Model(load_file(work / "hf" / "model.safetensors"), seed)
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    vectors = [p for p in model.parameters() if p.ndim < 2]
    optimizer = torch.optim.AdamW([{"params": matrices, "weight_decay": DECAY}, {"params": vectors, "weight_decay": 0}],
                                  lr=LR, betas=BETAS, eps=EPSILON, fused=True)
    loss_of = compiled(model)
    rows, begin, last = [], time.monotonic(), time.monotonic()
    for step, pair in enumerate(batches(work / "train.i32")):
        ids, targets = on_gpu(pair)
        with torch.autocast("cuda", torch.bfloat16):
            loss = loss_of(ids, targets) / targets.numel()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        for group in optimizer.param_groups:
            group["lr"] = rate(step, args.steps)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        value, now = loss.item(), time.monotonic()
        rows.append({"step": step + 1, "loss": value, "lr": rate(step, args.steps), "grad_norm": norm.item(),
                     "tokens_per_second": BATCH * LENGTH / (now - last), "tokens": BATCH * LENGTH * (step + 1),
                     "memory_peak": torch.cuda.max_memory_allocated(), "skipped": 0})
        last = now
    total, count = 0.0, 0
    with torch.no_grad(), torch.autocast("cuda", torch.bfloat16):
        for pair in batches(work / "val.i32"):
            ids, targets = on_gpu(pair)
            total += loss_of(ids, targets).double().item()
            count += int((targets >= 0).sum())
    rows.append({"step": args.steps, "val_loss": total / count, "val_tokens": count})
    info = json.loads((work / "init" / "run.json").read_text())
    for session in info.get("sessions", []):
        session["config"]["trainer"] |= {"steps": args.steps, "lr": LR, "weight_decay": DECAY, "batch": BATCH}
        session["config"]["data"]["sequence"] = 0
        session["config"]["recipe"] = "torch bf16"
        session["config"]["trainer"]["eval_batches"] = 0
    (run / "run.json").write_text(json.dumps(info, indent=1))
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    speed = statistics.median(r["tokens_per_second"] for r in rows[:-1])
    print(f"torch-{seed}: validation {total / count:.4f}, {speed / 1e3:.0f} ktok/s, {time.monotonic() - begin:.0f} s",
          flush=True)
    shutil.rmtree(work)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nibble", required=True)
    parser.add_argument("--dump", required=True)
    parser.add_argument("--data", required=True, type=pathlib.Path)
    parser.add_argument("--out", required=True, type=pathlib.Path)
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--steps", type=int, default=1526)
    args = parser.parse_args()
    torch.set_float32_matmul_precision("high")
    for seed in args.seeds:
        train(args, seed, torch.compile)


if __name__ == "__main__":
    main()
