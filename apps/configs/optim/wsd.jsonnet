// Warm-up, constant, then a linear decay to zero over the last fifth.
{
  trainer+: { schedule: 'wsd', lr_floor: 0, decay: super.steps / 5 },
}
