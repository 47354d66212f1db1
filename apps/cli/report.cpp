// nibble report: runs as one HTML page.
#include <fmt/format.h>
#include <CLI/CLI.hpp>

#include <cmath>
#include <cstdio>
#include <fstream>
#include <memory>

#include "apps/cli/commands.h"
#include "apps/report/page.h"
#include "apps/train/train_config.h"
#include "tensor/atomic_file.h"
#include "tensor/check.h"

namespace nibble::cli {
namespace {

struct Options {
  std::vector<std::string> runs;
  std::string output = "report.html";
  report::CompareOptions how{.defaults = train::write_config({})};
  bool force = false;
};

// A report may be written over, anything else stays.
bool is_report(const std::string& path) {
  std::ifstream in(path);
  std::string head(4096, '\0');
  in.read(head.data(), static_cast<std::streamsize>(head.size()));
  return head.find("content=\"nibble report\"") != std::string::npos;
}

int write_report(const Options& o) {
  NIBBLE_CHECK(o.how.margin > 0 && std::isfinite(o.how.margin), "report",
               "--margin: got {}, expected a positive number", o.how.margin);
  NIBBLE_CHECK(o.force || !std::filesystem::exists(o.output) || is_report(o.output), "report",
               "{} is there already and no report; hint: choose another --output, or --force",
               o.output);
  const std::vector<report::RunRecord> runs = report::read_runs(o.runs);
  std::optional<report::Table> table;
  try {
    table = compare_runs(runs, o.how);
  } catch (const Error& e) {
    // Runs that form no pairs have no verdicts; a baseline that was asked for must exist.
    if (!o.how.baseline.empty() || !o.how.control.empty()) throw;
    if (runs.size() > 1) fmt::print(stderr, "nibble: warning: no verdicts: {}\n", e.what());
  }
  const std::string html = page(runs, table, o.how.defaults);
  write_file_atomically(o.output, html, "report");
  for (const report::RunRecord& r : runs)
    for (const std::string& problem : r.problems)
      fmt::print(stderr, "warning: {}: {}\n", r.name, problem);
  fmt::print("{}: {} run{}, {} KiB\n", o.output, runs.size(), runs.size() == 1 ? "" : "s",
             (html.size() + 1023) / 1024);
  return 0;
}

}  // namespace

void add_report(CommandLine& line) {
  auto o = std::make_shared<Options>();
  CLI::App* c = line.app.add_subcommand(
      "report", "Write runs as one HTML page: curves, speed, memory, verdicts, configurations");
  c->add_option("runs", o->runs, "Folders of runs, or of folders of runs")->required();
  c->add_option("--output", o->output, "The page")->capture_default_str();
  c->add_option("--baseline", o->how.baseline, "A run of the group that verdicts compare with");
  c->add_option("--control", o->how.control, "A run of a group that is known to be worse");
  c->add_option("--margin", o->how.margin, "What counts as equal, in nats a token")
      ->capture_default_str();
  c->add_flag("--force", o->force, "Overwrite a file that is no report");
  c->callback([o, &line] { line.action = [o] { return write_report(*o); }; });
}

}  // namespace nibble::cli
