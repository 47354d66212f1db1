#include "nn/module.h"

#include <algorithm>

namespace nibble {
namespace {

std::string join(const std::string& prefix, std::string_view name) {
  return prefix.empty() ? std::string(name) : fmt::format("{}.{}", prefix, name);
}

class Collector : public Visitor {
 public:
  explicit Collector(std::vector<Parameter*>& out) : out_(out) {}
  void parameter(std::string_view, Parameter& p) override {
    if (std::find(out_.begin(), out_.end(), &p) == out_.end()) out_.push_back(&p);
  }
  void module(std::string_view, Module& child) override { child.visit(*this); }

 private:
  std::vector<Parameter*>& out_;
};

class Walker : public Visitor {
 public:
  explicit Walker(const std::function<void(Module&)>& fn) : fn_(fn) {}
  void parameter(std::string_view, Parameter&) override {}
  void module(std::string_view, Module& child) override {
    fn_(child);
    child.visit(*this);
  }

 private:
  const std::function<void(Module&)>& fn_;
};

}  // namespace

class PathVisitor : public Visitor {
 public:
  explicit PathVisitor(std::string prefix) : prefix_(std::move(prefix)) {}
  void parameter(std::string_view name, Parameter& p) override {
    if (p.name.empty()) p.name = join(prefix_, name);
  }
  void module(std::string_view name, Module& child) override {
    child.path_ = join(prefix_, name);
    PathVisitor inner(child.path_);
    child.visit(inner);
  }

 private:
  std::string prefix_;
};

void assign_paths(Module& root) {
  PathVisitor visitor(root.path_);
  root.visit(visitor);
}

std::vector<Parameter*> parameters(Module& root) {
  std::vector<Parameter*> out;
  Collector collector(out);
  root.visit(collector);
  return out;
}

void for_each_module(Module& root, const std::function<void(Module&)>& fn) {
  fn(root);
  Walker walker(fn);
  root.visit(walker);
}

}  // namespace nibble
