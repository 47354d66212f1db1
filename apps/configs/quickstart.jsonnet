// A GPT-2 of 0.9 million parameters on bytes: a few minutes on two cores.
{
  model: { layers: 4, heads: 4, width: 128, context: 256 },
  trainer: {
    batch: 8,
    steps: 800,
    lr: 2e-3,
    warmup: 40,
    eval_every: 0,
    checkpoint_every: 200,
    log_every: 20,
  },
  samples: { prompts: ['It is a truth universally acknowledged'], every: 200, tokens: 200 },
}
