{
  optimizer: { type: 'sgd', momentum: 0.9, nesterov: true },
  trainer+: { lr: 0.1 },
}
