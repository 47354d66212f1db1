// A GPT-2 of 1.8 M parameters on data/text, long enough to beat a 5-gram model
// (tests/bench/shipped_text.py): over 27 passes, so it drops out. --set data.path=…
{
  model: { layers: 4, heads: 6, width: 192, context: 256, dropout: 0.1 },
  data: { path: 'out/tokens' },
  recipe: 'none',
  trainer: {
    steps: 5000,
    batch: 8,
    lr: 2e-3,
    lr_floor: 0.02,
    warmup: 100,
    weight_decay: 0.1,
    eval_every: 0,
    checkpoint_every: 0,
    log_every: 100,
  },
}
