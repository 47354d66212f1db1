#include "nn/init.h"

#include "tensor/rng.h"

namespace nibble {

void init_normal(Parameter& parameter, double mean, double stddev, std::uint64_t seed) {
  NIBBLE_CHECK(!parameter.name.empty(), "init",
               "a parameter has no name; call assign_paths() first");
  Tensor& w = parameter.storage();
  const RngKey key{seed, rng_site(parameter.name, "init"), nullptr};
  w.copy_from(Tensor::normal(w.shape(), mean, stddev, key, DType::F32, w.device()));
  parameter.bump_version();
}

void init_constant(Parameter& parameter, double value) {
  parameter.storage().fill(value);
  parameter.bump_version();
}

}  // namespace nibble
