#!/usr/bin/env python3
"""Writes hf_gpt2/: a tiny random GPT-2 in Hugging Face's form, and hf_gpt2/logits.json, what it makes of a text.

Needs torch, transformers and tokenizers (made with 5.23.0 and 0.23.3) and no network.
"""
import json
import pathlib
import shutil

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

HERE = pathlib.Path(__file__).resolve().parent
FOLDER = HERE / "hf_gpt2"
CONTEXT, VOCAB = 24, 288


def learn(book):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    trainer = trainers.BpeTrainer(vocab_size=VOCAB, special_tokens=["<|endoftext|>"], show_progress=False,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator([book[:60000]], trainer)
    return tokenizer


def main():
    book = (HERE.parent.parent / "data/text/austen.txt").read_text("utf-8")
    tokenizer = learn(book)
    end = tokenizer.token_to_id("<|endoftext|>")
    torch.manual_seed(7)
    # Nothing is GPT-2's default, so that a field that is not read shows.
    config = transformers.GPT2Config(
        vocab_size=VOCAB, n_positions=CONTEXT, n_embd=16, n_layer=2, n_head=4, activation_function="gelu",
        layer_norm_epsilon=1e-3, embd_pdrop=0.05, attn_pdrop=0.1, resid_pdrop=0.15, bos_token_id=end, eos_token_id=end)
    model = transformers.GPT2LMHeadModel(config).eval()
    with torch.no_grad():
        for name, p in model.named_parameters():  # far from what initialisation gives
            p.normal_(1.0 if "ln_" in name and name.endswith("weight") else 0.0, 0.2)
        text = "It is a truth universally"
        ids = tokenizer.encode(text, add_special_tokens=False).ids[:CONTEXT]
        logits = model(torch.tensor([ids])).logits[0]
    shutil.rmtree(FOLDER, ignore_errors=True)
    model.save_pretrained(FOLDER)
    (FOLDER / "generation_config.json").unlink(missing_ok=True)
    (FOLDER / "tokenizer.json").write_text(tokenizer.to_str() + "\n", "utf-8")
    golden = {"text": text, "ids": ids, "logits": [[float(f"{x:.7g}") for x in row] for row in logits.tolist()]}
    (FOLDER / "logits.json").write_text(json.dumps(golden, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
