// About 20 seconds on two cores, with a checkpoint every few steps: for trying things out.
{
  recipe: 'int8',
  model: { layers: 2, heads: 2, width: 64, context: 128 },
  trainer: {
    batch: 8,
    steps: 400,
    lr: 3e-3,
    warmup: 20,
    eval_every: 200,
    eval_batches: 8,
    checkpoint_every: 10,
    keep: 3,
    telemetry_every: 50,
  },
}
