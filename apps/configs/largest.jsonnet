// 32.6 B parameters, all trained, on one GPU of 141 GB: int8 weights without a master copy, 8-bit moments, each
// parameter updated while backward runs, blocks recomputed. No checkpoint: it would take 92 GiB. More fits, with
// 4-bit moments: --set model.layers=80 --set optimizer.m=dyn4:group128:packed --set optimizer.v=lin4u:group128:packed
{
  model: { layers: 40, heads: 64, width: 8192, compute: 'bf16', checkpoint_blocks: true },
  recipe: 'int8,weights=int8',
  trainer: {
    batch: 1,
    steps: 10,
    lr: 3e-8,  // bench/results/2026-11-29-largest.md: the first update is linear in it
    schedule: 'constant',
    warmup: 0,
    weight_decay: 0.1,
    update: 'in_backward',
    clip: 0,
    eval_every: 0,
    eval_batches: 8,
    checkpoint_every: 0,
    keep: 0,
    log_every: 1,
  },
}
