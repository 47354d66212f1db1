#!/usr/bin/env python3
"""GPT-2 through Nibble and back: import, export, and the logits of both against transformers, in f32.

    python3 tests/bench/hf_logits.py --nibble NIBBLE --dump LOGITS_DUMP --work DIR [--sizes gpt2 gpt2-xl] [--device cuda]

transformers makes a GPT-2 of each size with seeded random weights (its own initialisation, widened, so that logits are
spread as a trained model's), saved as sharded safetensors. `nibble import` reads it, logits_dump runs it in Nibble,
`nibble export` writes it again and transformers loads that. Prints the largest difference of a logit from transformers'
own (TF32 off), relative to nothing, and whether the weights came back bit for bit. Exit 1 beyond 1e-4 or when they did
not.
"""
import argparse
import pathlib
import shutil
import subprocess
import sys

import numpy
import torch
from transformers import GPT2Config, GPT2LMHeadModel

SHAPES = {"gpt2": (12, 12, 768), "gpt2-medium": (24, 16, 1024), "gpt2-large": (36, 20, 1280), "gpt2-xl": (48, 25, 1600)}
ROOT = pathlib.Path(__file__).resolve().parents[2]


def logits_of(model, ids, device):
    with torch.no_grad():
        return model.to(device).eval()(ids.to(device)).logits.float().cpu()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nibble", required=True)
    parser.add_argument("--dump", required=True)
    parser.add_argument("--work", required=True, type=pathlib.Path)
    parser.add_argument("--sizes", nargs="+", choices=SHAPES, default=["gpt2", "gpt2-xl"])
    parser.add_argument("--device", default="cuda")
    args = parser.parse_args()
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.set_float32_matmul_precision("highest")
    bad = False
    for size in args.sizes:
        layers, heads, width = SHAPES[size]
        work = args.work / size
        shutil.rmtree(work, ignore_errors=True)
        torch.manual_seed(20261129)
        model = GPT2LMHeadModel(GPT2Config(n_layer=layers, n_head=heads, n_embd=width)).eval()
        with torch.no_grad():  # logits of initial weights differ by tenths; a trained model's by tens
            model.transformer.wte.weight.mul_(4)
            for name, p in model.named_parameters():
                if name.endswith(".bias"):
                    p.normal_(0, 0.02)
        model.save_pretrained(work / "hf", max_shard_size="2GB")
        for name, file in (("vocab.json", "encoder.json"), ("merges.txt", "vocab.bpe")):
            shutil.copy(ROOT / "data" / "gpt2" / file, work / "hf" / name)
        ids = torch.randint(0, 50257, (2, 1024), generator=torch.Generator().manual_seed(1))
        (work / "ids.i32").write_bytes(ids.to(torch.int32).numpy().tobytes())
        expected = logits_of(model, ids, args.device)
        subprocess.run([args.nibble, "import", work / "hf", "--output", work / "run"], check=True)
        subprocess.run([args.dump, work / "run", work / "ids.i32", "2", "1024", work / "logits.npy", args.device],
                       check=True)
        ours = torch.from_numpy(numpy.load(work / "logits.npy"))
        subprocess.run([args.nibble, "export", work / "run", "--output", work / "back"], check=True)
        returned = GPT2LMHeadModel.from_pretrained(work / "back")
        same = all(torch.equal(a.cpu(), b.cpu()) for a, b in zip(model.state_dict().values(),
                                                                  returned.state_dict().values(), strict=True))
        again = logits_of(returned, ids, args.device)
        near, far = (ours - expected).abs().max().item(), (again - expected).abs().max().item()
        print(f"{size}: logits in [{expected.min():.2f}, {expected.max():.2f}]; largest difference: Nibble's own "
              f"{near:.2e}, transformers after the round trip {far:.2e}; weights {'equal' if same else 'DIFFER'}; shards "
              f"{len(list((work / 'hf').glob('*.safetensors')))}", flush=True)
        bad |= near > 1e-4 or far > 1e-4 or not same
        shutil.rmtree(work)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
