(import 'gpt2.jsonnet') + {
  model+: { size: 'gpt2-xl' },
  trainer+: { batch: 4, accumulation: 128, lr: 2e-4 },
}
