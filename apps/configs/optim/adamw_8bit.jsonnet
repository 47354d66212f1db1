// Both moments in 8 bits, whatever the recipe says.
{
  optimizer: { type: 'adamw', m: 'dyn8:group256', v: 'dynu8:group256:sr:recip' },
}
