(import 'gpt2.jsonnet') + {
  model+: { size: 'gpt2-large' },
  trainer+: { batch: 8, accumulation: 64, lr: 2.5e-4 },
}
