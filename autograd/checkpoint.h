// Activation checkpointing: trade a second forward pass for the memory of saved tensors.
#pragma once

#include <functional>

#include "autograd/tape.h"

namespace nibble {

// y = fn(x), saving x alone; backward runs fn again on a tape of its own. Random draws repeat
// because they are keyed, so the gradient is bit for bit that of fn(x). fn may use parameters and
// x, but no other tracked variable (backward throws), and what it refers to must outlive backward.
Var checkpoint(std::function<Var(const Var&)> fn, const Var& x);

}  // namespace nibble
