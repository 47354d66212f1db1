// Initialisation by name: a parameter's values depend on (seed, its name) alone.
#pragma once

#include <cstdint>

#include "autograd/parameter.h"

namespace nibble {

// Fills a dense parameter with N(mean, stddev²) drawn from (seed, name); names must be assigned.
void init_normal(Parameter& parameter, double mean, double stddev, std::uint64_t seed);
void init_constant(Parameter& parameter, double value);

}  // namespace nibble
