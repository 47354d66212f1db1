// What a forward pass runs under, kept per thread: training or not, the random streams, telemetry,
// and the path of the module at work (for keys, errors and summaries).
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "tensor/profile.h"
#include "tensor/rng.h"
#include "tensor/storage.h"

namespace nibble {

class ScaleHistory;
class Telemetry;

struct ForwardContext {
  bool training = false;                // dropout is the identity when false
  std::uint64_t seed = 0;               // of every random draw of the pass
  const std::uint32_t* step = nullptr;  // StepState::step_pointer(); null reads as 0
  std::uint32_t micro_step = 0;         // global index of the micro-batch within the step
  Telemetry* telemetry = nullptr;       // collects quantization statistics when set
  ScaleHistory* scales = nullptr;       // of specs with delayed scaling, which else have none
};

const ForwardContext& forward_context();

class ForwardScope {
 public:
  explicit ForwardScope(const ForwardContext& context);
  ~ForwardScope();
  ForwardScope(const ForwardScope&) = delete;
  ForwardScope& operator=(const ForwardScope&) = delete;

 private:
  ForwardContext previous_;
};

// Names the module at work, for profilers too; the string must outlive the scope. Scopes do not add
// up: a module knows its whole path.
class ModuleScope {
 public:
  explicit ModuleScope(const std::string& path);
  ~ModuleScope();
  ModuleScope(const ModuleScope&) = delete;
  ModuleScope& operator=(const ModuleScope&) = delete;

 private:
  const std::string* previous_;
  ProfileRange range_;
  std::optional<MemoryScope> memory_;
};
// While it lives, what modules take is counted by their kind (memory_by_scope): "activations:
// mlp.fc1" in forward passes that are recorded, "workspace: mlp.fc1" in all others. For plans.
class MemoryByModule {
 public:
  MemoryByModule();
  ~MemoryByModule();
  MemoryByModule(const MemoryByModule&) = delete;
  MemoryByModule& operator=(const MemoryByModule&) = delete;
};
const std::string& module_path();  // "" outside modules

// The stream of (context's seed, module at work, purpose, context's micro-step) at the context's
// step.
RngKey random_key(std::string_view purpose);

}  // namespace nibble
