// The first moment in linear 4 bits, the second in dynamic 8 bits.
{
  optimizer: { type: 'adamw', m: 'int4:group128', v: 'dynu8:group256' },
}
