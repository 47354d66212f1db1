// Module: a named part of a model. visit() names every parameter and child once, and everything
// that walks a model (paths, optimizers, checkpoints, inspection) is built on it: no index magic.
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "autograd/parameter.h"

namespace nibble {

class Module;

class Visitor {
 public:
  virtual ~Visitor() = default;
  virtual void parameter(std::string_view name, Parameter& parameter) = 0;
  virtual void module(std::string_view name, Module& child) = 0;
};

class Module {
 public:
  Module() = default;
  Module(const Module&) = delete;  // parameters are held by address
  Module& operator=(const Module&) = delete;
  virtual ~Module() = default;

  virtual void visit(Visitor& visitor) = 0;
  // "blocks.3.attn.qkv"; "" for the root. Set by assign_paths.
  const std::string& path() const { return path_; }

 private:
  friend void assign_paths(Module& root);
  friend class PathVisitor;
  std::string path_;
};

// Gives every module its path and every parameter its name. Call it once the model is built.
void assign_paths(Module& root);
// All parameters in visiting order; one shared by two modules appears once, under its first name.
std::vector<Parameter*> parameters(Module& root);
void for_each_module(Module& root, const std::function<void(Module&)>& fn);

}  // namespace nibble
