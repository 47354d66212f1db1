// The training set-up of the linear-quantization study; a cell goes on top:
//   --config study/base.jsonnet,study/w8_channel.jsonnet
// A cell also goes on top of any other base, such as quickstart.jsonnet.
{
  model: { size: 'gpt2', dropout: 0.1 },
  optimizer: { type: 'adamw', beta1: 0.9, beta2: 0.999 },
  trainer: {
    batch: 8,
    accumulation: 64,
    steps: 300000,
    lr: 6e-4,
    lr_floor: 0,
    warmup: 1000,
    weight_decay: 0.1,
    clip: 1,
    seed: 42,
    eval_every: 1000,
    checkpoint_every: 1000,
  },
}
