// The unit of training in which recipes are compared: GPT-2 small, 1,526 steps of 32 × 1024 = 50.0 M tokens, the whole
// validation split at the end. --set data.path=…, --set recipe=…, --set trainer.seed=… (runs of one seed are paired).
(import 'gpt2.jsonnet') + {
  trainer+: {
    accumulation: 1,
    steps: 1526,
    warmup: 100,
    eval_every: 0,
    eval_batches: 0,
    checkpoint_every: 0,
  },
}
