// nibble compare: whether recipes differ, by paired runs.
#include <fmt/format.h>

#include <cmath>
#include <cstdio>
#include <memory>

#include "apps/cli/commands.h"
#include "apps/report/groups.h"
#include "tensor/check.h"

namespace nibble::cli {
namespace {

struct Options {
  std::vector<std::string> runs;
  report::CompareOptions how;
  bool json = false;
};

std::string signed_text(double x) { return std::isfinite(x) ? fmt::format("{:+.4f}", x) : "-"; }

void print(const report::Table& table) {
  fmt::print("{}; baseline {}:", table.metric, table.baseline.label);
  for (const auto* run : table.baseline.runs)
    fmt::print("  seed {} {:.4f}", run->seed, run->final_loss());
  fmt::print("\n\n");
  for (std::size_t i = 0; i < table.groups.size(); ++i) {
    const report::Comparison& c = table.comparisons[i];
    fmt::print("{}\n", table.groups[i].label);
    for (const report::Pair& p : c.pairs)
      fmt::print("  seed {:<4} {:.4f}  {}{}\n", p.seed, p.value, signed_text(p.difference()),
                 p.failed ? "  failed" : "");
    fmt::print("  mean {}, one-sided 95 % bounds {} and {}, n = {}\n", signed_text(c.mean),
               signed_text(c.lower), signed_text(c.upper), c.pairs.size());
    fmt::print("  {}{}\n\n", to_string(c.verdict),
               c.verdict == report::Verdict::Within ||
                       c.verdict == report::Verdict::NotDistinguished ||
                       c.verdict == report::Verdict::TooFew
                   ? fmt::format(" (margin {})", table.margin)
                   : "");
  }
  for (const std::string& note : table.notes) fmt::print("note: {}\n", note);
}

Json as_json(const report::Table& table) {
  const auto finite = [](double x) { return std::isfinite(x) ? Json(x) : Json(nullptr); };
  Json out = {{"metric", table.metric},
              {"margin", table.margin},
              {"baseline", table.baseline.label},
              {"groups", Json::array()},
              {"notes", table.notes}};
  for (std::size_t i = 0; i < table.groups.size(); ++i) {
    const report::Comparison& c = table.comparisons[i];
    Json pairs = Json::array();
    for (const report::Pair& p : c.pairs)
      pairs.push_back({{"seed", p.seed},
                       {"baseline", finite(p.baseline)},
                       {"value", finite(p.value)},
                       {"failed", p.failed}});
    out["groups"].push_back({{"label", table.groups[i].label},
                             {"pairs", pairs},
                             {"mean", finite(c.mean)},
                             {"lower", finite(c.lower)},
                             {"upper", finite(c.upper)},
                             {"p_worse", finite(c.p_worse)},
                             {"verdict", to_string(c.verdict)}});
  }
  return out;
}

int run_compare(const Options& o) {
  NIBBLE_CHECK(o.how.margin > 0 && std::isfinite(o.how.margin), "compare",
               "--margin: got {}, expected a positive number", o.how.margin);
  const std::vector<report::RunRecord> runs = report::read_runs(o.runs);
  const report::Table table = compare_runs(runs, o.how);
  if (o.json)
    fmt::print("{}\n", as_json(table).dump(2));
  else
    print(table);
  return 0;
}

}  // namespace

void add_compare(CommandLine& line) {
  auto o = std::make_shared<Options>();
  CLI::App* c = line.app.add_subcommand(
      "compare", "Say by paired runs whether recipes differ: bounds and verdicts");
  c->add_option("runs", o->runs, "Folders of runs, or of folders of runs")->required();
  c->add_option("--baseline", o->how.baseline,
                "A run of the group to compare with (the unquantized one)");
  c->add_option("--control", o->how.control, "A run of a group that is known to be worse");
  c->add_option("--margin", o->how.margin, "What counts as equal, in nats a token")
      ->capture_default_str();
  c->add_flag("--json", o->json, "Print JSON");
  c->callback([o, &line] { line.action = [o] { return run_compare(*o); }; });
}

}  // namespace nibble::cli
