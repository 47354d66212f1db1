#!/usr/bin/env python3
"""Writes gpt2.json: GPT-2 and the optimizers as PyTorch and transformers compute them, on the CPU.

    python3 make_gpt2.py > gpt2.json        (needs torch and transformers; no network)

No weights are stored. Both sides make them from one integer generator: element i of the array
called `name` is

    h = fnv1a32(name) + i * 0x9E3779B9            (32-bit, as all that follows)
    h = mix(h) = murmur3's 32-bit finalizer
    bits = h >> 16
    value = (bits - 32768) * scale                (scale: a power of two, so f32 holds it exactly)

and integers in [0, n) are `h % n`. tests/gpt2_golden.h is the other implementation.
"""
import json

import numpy as np
import torch
import transformers

VOCAB, CONTEXT, LAYERS, HEADS, WIDTH = 50257, 64, 2, 2, 128
BATCH, LENGTH, STEPS = 2, 32, 20
MATRIX, VECTOR = 2.0**-18, 2.0**-17  # up to 0.125 and 0.25: far from what initialisation gives


def hashes(name, count):
    h = 0x811C9DC5
    for byte in name.encode():
        h = (h ^ byte) * 0x01000193 & 0xFFFFFFFF
    x = np.uint32(h) + np.arange(count, dtype=np.uint32) * np.uint32(0x9E3779B9)
    x = (x ^ x >> np.uint32(16)) * np.uint32(0x85EBCA6B)
    x = (x ^ x >> np.uint32(13)) * np.uint32(0xC2B2AE35)
    return x ^ x >> np.uint32(16)


def values(name, shape, scale, offset=0.0):
    bits = (hashes(name, int(np.prod(shape))) >> np.uint32(16)).astype(np.int64)
    return ((bits - 32768) * scale + offset).astype(np.float32).reshape(shape)


def tokens(step, name):
    """300 different tokens, the largest of the vocabulary among them: so that 20 steps learn something."""
    ids = (hashes(f"{name}.{step}", BATCH * (LENGTH + 1)) % np.uint32(300)).astype(np.int64) * 168
    return torch.from_numpy(np.minimum(ids, VOCAB - 1).reshape(BATCH, LENGTH + 1))


def weights(tied):
    """By Nibble's names and layouts: linear weights are [out, in]."""
    c = WIDTH
    shapes = {"wte.weight": (VOCAB, c), "wpe.weight": (CONTEXT, c)}
    for i in range(LAYERS):
        for name, shape in (("ln1", (c,)), ("attn.qkv", (3 * c, c)), ("attn.proj", (c, c)), ("ln2", (c,)),
                            ("mlp.fc1", (4 * c, c)), ("mlp.fc2", (c, 4 * c))):
            shapes[f"blocks.{i}.{name}.weight"] = shape
            shapes[f"blocks.{i}.{name}.bias"] = shape[:1]
    shapes["ln_f.weight"] = shapes["ln_f.bias"] = (c,)
    if not tied:
        shapes["lm_head.weight"] = (VOCAB, c)
    out = {}
    for name, shape in shapes.items():
        gain = len(shape) == 1 and name.endswith("weight")
        out[name] = values(name, shape, MATRIX if len(shape) == 2 else VECTOR, 1.0 if gain else 0.0)
    return out


THEIRS = (("wte", "transformer.wte"), ("wpe", "transformer.wpe"), ("ln_f", "transformer.ln_f"),
          ("blocks.", "transformer.h."), (".ln1", ".ln_1"), (".ln2", ".ln_2"), (".attn.qkv", ".attn.c_attn"),
          (".attn.proj", ".attn.c_proj"), (".mlp.fc1", ".mlp.c_fc"), (".mlp.fc2", ".mlp.c_proj"))


def model(tied):
    config = transformers.GPT2Config(
        vocab_size=VOCAB, n_positions=CONTEXT, n_embd=WIDTH, n_layer=LAYERS, n_head=HEADS, resid_pdrop=0.0,
        embd_pdrop=0.0, attn_pdrop=0.0, tie_word_embeddings=tied, attn_implementation="sdpa")
    gpt2 = transformers.GPT2LMHeadModel(config).float().train()
    state = {}
    for name, value in weights(tied).items():
        theirs = name
        for ours, replacement in THEIRS:
            theirs = theirs.replace(ours, replacement)
        # transformers' Conv1D holds [in, out].
        transposed = ".h." in theirs and value.ndim == 2
        state[theirs] = torch.from_numpy(value.T.copy() if transposed else value)
    if tied:
        state["lm_head.weight"] = state["transformer.wte.weight"]
    gpt2.load_state_dict(state, strict=True)
    assert (gpt2.lm_head.weight.data_ptr() == gpt2.transformer.wte.weight.data_ptr()) == tied
    return gpt2


def rounded(array):
    return [float(f"{x:.9g}") for x in np.asarray(array, dtype=np.float64).ravel()]


def logits_of(gpt2):
    """Every column through its logsumexp, and every 97th column and the largest eight of six places."""
    with torch.no_grad():
        logits = gpt2(tokens(0, "logits")[:, :LENGTH]).logits.reshape(-1, VOCAB)
    places = [0, 1, 13, LENGTH - 1, LENGTH, 2 * LENGTH - 1]
    top = torch.topk(logits[places], 8)
    return {"places": places, "stride": 97, "columns": [rounded(logits[p, ::97]) for p in places],
            "top_index": top.indices.tolist(), "top": [rounded(row) for row in top.values],
            "logsumexp": rounded(torch.logsumexp(logits.double(), -1))}


def losses_of(gpt2):
    decayed = [p for p in gpt2.parameters() if p.dim() >= 2]
    others = [p for p in gpt2.parameters() if p.dim() < 2]
    adamw = torch.optim.AdamW([{"params": decayed, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}],
                              lr=1e-3, betas=(0.9, 0.95), eps=1e-8)
    losses, norms = [], []
    for step in range(STEPS):
        ids = tokens(step % 4, "train")  # each batch five times
        logits = gpt2(ids[:, :-1]).logits
        loss = torch.nn.functional.cross_entropy(logits.reshape(-1, VOCAB), ids[:, 1:].reshape(-1))
        adamw.zero_grad()
        loss.backward()
        # In f64: torch's own f32 sum over six million squares is 2e-4 off.
        norms.append(sum(float(p.grad.double().square().sum()) for p in gpt2.parameters()) ** 0.5)
        torch.nn.utils.clip_grad_norm_(gpt2.parameters(), 1.0)
        adamw.step()
        losses.append(float(loss.detach()))
    return {"losses": rounded(losses), "norms": rounded(norms)}


def optimizer_of(make, steps=12, count=96):
    """The weights after each step, in f64: a yardstick that both f32 implementations must meet."""
    p = torch.nn.Parameter(torch.from_numpy(values("optim.weight", (count,), 2.0**-16).astype(np.float64)))
    optimizer = make([p])
    trace = []
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = (step + 1) * 2.0**-8
        gradient = values(f"optim.gradient.{step}", (count,), 2.0**-15).astype(np.float64)
        gradient[step::7] = 0  # moments of elements that rest
        p.grad = torch.from_numpy(gradient)
        optimizer.step()
        trace.append(rounded(p.detach()))
    return trace


def main():
    torch.set_num_threads(2)
    golden = {"made_with": {"torch": torch.__version__.split("+")[0], "transformers": transformers.__version__},
              "shape": {"vocab": VOCAB, "context": CONTEXT, "layers": LAYERS, "heads": HEADS, "width": WIDTH,
                        "batch": BATCH, "length": LENGTH, "steps": STEPS}}
    for tied in (True, False):
        gpt2 = model(tied)
        golden["tied" if tied else "untied"] = {"logits": logits_of(gpt2), "training": losses_of(gpt2)}
    golden["adamw"] = optimizer_of(lambda p: torch.optim.AdamW(p, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1))
    golden["sgd"] = optimizer_of(lambda p: torch.optim.SGD(p, lr=1.0))
    golden["momentum"] = optimizer_of(lambda p: torch.optim.SGD(p, lr=1.0, momentum=0.9))
    golden["nesterov"] = optimizer_of(lambda p: torch.optim.SGD(p, lr=1.0, momentum=0.9, nesterov=True))
    print(json.dumps(golden, separators=(",", ":")))


if __name__ == "__main__":
    main()
