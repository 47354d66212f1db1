#include "autograd/context.h"

namespace nibble {
namespace {
thread_local ForwardContext t_context;
thread_local const std::string* t_path = nullptr;
}  // namespace

const ForwardContext& forward_context() { return t_context; }
ForwardScope::ForwardScope(const ForwardContext& context) : previous_(t_context) {
  t_context = context;
}
ForwardScope::~ForwardScope() { t_context = previous_; }

ModuleScope::ModuleScope(const std::string& path) : previous_(t_path), range_(path) {
  t_path = &path;
}
ModuleScope::~ModuleScope() { t_path = previous_; }
const std::string& module_path() {
  static const std::string none;
  return t_path ? *t_path : none;
}

RngKey random_key(std::string_view purpose) {
  return {t_context.seed, rng_site(module_path(), purpose, t_context.micro_step), t_context.step};
}

}  // namespace nibble
