(import 'gpt2.jsonnet') + {
  model+: { size: 'gpt2-medium' },
  trainer+: { batch: 16, accumulation: 32, lr: 3e-4 },
}
