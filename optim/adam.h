// AdamW (Loshchilov & Hutter 2019) and SGD with encoded states.
#pragma once

#include "optim/optimizer.h"

namespace nibble {

struct AdamOptions {
  double beta1 = 0.9, beta2 = 0.95, epsilon = 1e-8;
  StateSlot m{.name = "m"}, v{.name = "v"};
  std::uint64_t seed = 0;  // of stochastic rounding of weights and states
};

class AdamW : public Optimizer {
 public:
  AdamW(std::vector<ParameterGroup> groups, AdamOptions options);
  std::string name() const override { return "adamw"; }
  bool recordable() const override { return true; }

 protected:
  void begin_step() override;
  void update(Update& u) override;
  bool updates_stored() const override { return true; }
  void update_stored(std::vector<StoredUpdate>& all, const StepScalars* step,
                     const RngKey& draws) override;

 private:
  AdamRule rule() const;
  AdamOptions options_;
  Tensor corrections_;  // of the step, on home()
};

struct SgdOptions {
  double momentum = 0;
  bool nesterov = false;
  StateSlot m{.name = "m"};
  std::uint64_t seed = 0;
};

class Sgd : public Optimizer {
 public:
  Sgd(std::vector<ParameterGroup> groups, SgdOptions options);
  std::string name() const override { return "sgd"; }
  bool recordable() const override { return true; }

 protected:
  void update(Update& u) override;

 private:
  SgdOptions options_;
};

}  // namespace nibble
