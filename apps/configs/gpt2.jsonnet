// GPT-2 small, 524,288 tokens a step. Batch and accumulation fit a large GPU; keep their product.
{
  // 50,257 tokens in rows that fill tensor cores.
  model: { size: 'gpt2', compute: 'bf16', vocab: 50304 },
  trainer: {
    batch: 32,
    accumulation: 16,
    steps: 20000,
    lr: 6e-4,
    lr_floor: 0.1,
    warmup: 700,
    weight_decay: 0.1,
    eval_every: 250,
    eval_batches: 64,
    checkpoint_every: 1000,
  },
}
