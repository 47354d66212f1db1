#include "autograd/context.h"

#include <set>

#include "autograd/tape.h"

namespace nibble {
namespace {

thread_local ForwardContext t_context;
thread_local const std::string* t_path = nullptr;
thread_local bool t_by_module = false;

// "blocks.3.mlp.fc1" → "mlp.fc1", "blocks.3" → "blocks".
std::string kind_of(const std::string& path) {
  const auto digit = path.find_first_of("0123456789");
  if (digit == std::string::npos || digit == 0 || path[digit - 1] != '.') return path;
  const auto dot = path.find('.', digit);
  return dot == std::string::npos ? path.substr(0, digit - 1) : path.substr(dot + 1);
}

// Names of scopes live for ever.
const char* scope_of(const std::string& path) {
  thread_local std::set<std::string> names;
  const char* use = Tape::active() ? "activations" : "workspace";
  return names.insert(fmt::format("{}: {}", use, kind_of(path))).first->c_str();
}

}  // namespace

const ForwardContext& forward_context() { return t_context; }
ForwardScope::ForwardScope(const ForwardContext& context) : previous_(t_context) {
  t_context = context;
}
ForwardScope::~ForwardScope() { t_context = previous_; }

ModuleScope::ModuleScope(const std::string& path) : previous_(t_path), range_(path) {
  t_path = &path;
  if (t_by_module && !path.empty()) memory_.emplace(scope_of(path));
}
ModuleScope::~ModuleScope() { t_path = previous_; }
const std::string& module_path() {
  static const std::string none;
  return t_path ? *t_path : none;
}

MemoryByModule::MemoryByModule() { t_by_module = true; }
MemoryByModule::~MemoryByModule() { t_by_module = false; }

RngKey random_key(std::string_view purpose) {
  return {t_context.seed, rng_site(module_path(), purpose, t_context.micro_step), t_context.step};
}

}  // namespace nibble
