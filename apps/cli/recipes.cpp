// nibble recipes: what can stand behind --set recipe=.
#include <fmt/format.h>
#include <CLI/CLI.hpp>

#include <algorithm>
#include <cstdio>

#include "apps/cli/commands.h"
#include "quant/recipe.h"

namespace nibble::cli {
namespace {

std::string operand(const Encoding& e) {
  if (e.custom) return e.custom->name();
  if (e.source == Source::ReuseForward) return "reuse";
  return e.quant ? to_string(*e.quant) : "-";
}

std::string product(const char* name, const GemmRecipe& p) {
  if (p.empty()) return "";
  return fmt::format("{} {} × {}{}{}  ", name, operand(p.lhs), operand(p.rhs),
                     p.mode == Mode::Real ? " real" : "",
                     p.accumulation == Accumulation::Fast ? " fast" : "");
}

std::string describe(const Recipe& r) {
  std::string text = product("fprop", r.linear.fprop) + product("dgrad", r.linear.dgrad) +
                     product("wgrad", r.linear.wgrad);
  const auto moment = [&](const char* name, const std::string& word) {
    if (!word.empty())
      text += fmt::format("{} {}{}  ", name, word, r.moments.simulated ? " simulated" : "");
  };
  moment("m", r.moments.m);
  moment("v", r.moments.v);
  if (r.quantize_lm_head) text += "lm_head too  ";
  if (r.linear.exact_target) text += "target exact";
  while (text.ends_with(' ')) text.pop_back();
  return text.empty() ? "everything in full precision" : text;
}

int list() {
  const std::vector<std::string> names = recipes::names();
  std::size_t widest = 0;
  for (const std::string& name : names) widest = std::max(widest, name.size());
  for (const std::string& name : names)
    fmt::print("{:<{}}  {}\n", name, widest, describe(recipes::parse(name)));
  return 0;
}

}  // namespace

void add_recipes(CommandLine& line) {
  CLI::App* c = line.app.add_subcommand(
      "recipes", "List the recipes: the products' operands (left × right) and the moments");
  c->callback([&line] { line.action = list; });
}

}  // namespace nibble::cli
