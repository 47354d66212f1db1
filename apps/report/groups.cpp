#include "apps/report/groups.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>

#include "apps/report/pairing.h"
#include "tensor/check.h"

namespace nibble::report {
namespace {

constexpr const char* kOp = "compare";
// What tells nothing about the model that comes out.
constexpr std::string_view kIgnored[] = {"trainer.seed",
                                         "trainer.log_every",
                                         "trainer.keep",
                                         "trainer.checkpoint_every",
                                         "trainer.eval_every",
                                         "trainer.telemetry_every",
                                         "model.checkpoint_blocks",
                                         "model.recompute",
                                         "model.recompute_blocks",
                                         "tune",
                                         "data.path"};

using Flat = std::map<std::string, std::string>;

Flat traits_of(const RunRecord& run, const Json& defaults) {
  Flat flat;
  for (const Json& config : {defaults, run.config})
    for (const auto& [key, value] : flatten(config))
      if (std::ranges::find(kIgnored, key) == std::end(kIgnored) && !key.starts_with("samples"))
        flat[key] = value;
  // A table of plans is its content, wherever it lay.
  if (!run.plan_hash.empty()) flat["plans"] = run.plan_hash;
  return flat;
}

std::vector<std::string> differences(const Flat& from, const Flat& to) {
  std::vector<std::string> out;
  for (const auto& [key, value] : to)
    if (const auto at = from.find(key); at == from.end() || at->second != value)
      out.push_back(key + "=" + value);
  for (const auto& [key, value] : from)
    if (!to.contains(key)) out.push_back("without " + key);
  return out;
}

// Recipes bring their moments along.
bool is_expected(const std::string& difference) {
  return difference.starts_with("recipe=") || difference.find("optimizer.") != std::string::npos;
}

struct Cluster {
  Flat traits;
  std::vector<const RunRecord*> runs;
};

std::vector<Cluster> cluster(const std::vector<const RunRecord*>& runs, const Json& defaults) {
  std::vector<Cluster> all;
  for (const RunRecord* run : runs) {
    const Flat traits = traits_of(*run, defaults);
    auto at = std::ranges::find(all, traits, &Cluster::traits);
    if (at == all.end()) at = all.insert(all.end(), {traits, {}});
    at->runs.push_back(run);
  }
  for (Cluster& c : all) std::ranges::stable_sort(c.runs, {}, &RunRecord::seed);
  return all;
}

std::string recipe_of(const Cluster& c) {
  const auto at = c.traits.find("recipe");
  return at == c.traits.end() ? "" : at->second;
}

const Cluster* with_run(const std::vector<Cluster>& all, const std::string& name,
                        const char* option) {
  for (const Cluster& c : all)
    for (const RunRecord* run : c.runs)
      if (run->name == name || run->path == std::filesystem::path(name)) return &c;
  std::string names;
  for (const Cluster& c : all)
    for (const RunRecord* run : c.runs) names += (names.empty() ? "" : ", ") + run->name;
  fail(kOp, "--{}: got '{}', expected the name of one of the runs: {}", option, name, names);
}

const Cluster& baseline_of(const std::vector<Cluster>& all, const std::string& name) {
  if (!name.empty()) return *with_run(all, name, "baseline");
  const Cluster* found = nullptr;
  for (const Cluster& c : all) {
    if (recipe_of(c) != "none") continue;
    NIBBLE_CHECK(!found, kOp,
                 "several groups are unquantized, such as {} and {}; name one with --baseline",
                 found->runs.front()->name, c.runs.front()->name);
    found = &c;
  }
  return found ? *found : all.front();
}

std::string joined(const std::vector<std::string>& words) {
  std::string text;
  for (const std::string& w : words) text += (text.empty() ? "" : ", ") + w;
  return text;
}

// Programs change what a configuration means: runs of several are one group, and that is said.
void note_versions(const std::string& label, const std::vector<const RunRecord*>& runs,
                   std::vector<std::string>& notes) {
  std::vector<std::string> commits;
  for (const RunRecord* run : runs)
    if (const std::string commit = run->commit.substr(0, 12);
        !commit.empty() && std::ranges::find(commits, commit) == commits.end())
      commits.push_back(commit);
  if (commits.size() > 1)
    notes.push_back(fmt::format("{}: runs of {} programs (commits {})", label, commits.size(),
                                joined(commits)));
}

}  // namespace

Table compare_runs(const std::vector<RunRecord>& runs, const CompareOptions& options) {
  NIBBLE_CHECK(runs.size() >= 2, kOp, "got {} run, expected at least two", runs.size());
  std::vector<std::string> notes;
  std::vector<const RunRecord*> known;
  for (const RunRecord& run : runs) {
    if (run.config.empty())
      notes.push_back(fmt::format("{} is left out: its configuration is unknown", run.name));
    else
      known.push_back(&run);
  }
  const std::vector<Cluster> all = cluster(known, options.defaults);
  NIBBLE_CHECK(all.size() >= 2, kOp,
               "the {} runs differ in nothing but their seeds: there is nothing to compare{}{}",
               known.size(), notes.empty() ? "" : "; ", notes.empty() ? "" : notes.front());
  const Cluster& base = baseline_of(all, options.baseline);
  const Cluster* control =
      options.control.empty() ? nullptr : with_run(all, options.control, "control");
  NIBBLE_CHECK(control != &base, kOp, "--control: got '{}', which is a run of the baseline",
               options.control);

  Table table{.metric = "validation loss, nats a token",
              .margin = options.margin,
              .baseline = {"recipe=" + recipe_of(base), countable(base.runs, notes), {}},
              .groups = {},
              .comparisons = {},
              .notes = std::move(notes)};
  note_versions(table.baseline.label, table.baseline.runs, table.notes);
  std::vector<std::vector<Pair>> pairs;
  std::size_t control_at = ~std::size_t{0};
  for (const Cluster& c : all) {
    if (&c == &base) continue;
    const std::vector<std::string> apart = differences(base.traits, c.traits);
    Group group{.label = {}, .runs = countable(c.runs, table.notes), .foreign = {}};
    std::vector<std::string> label;
    for (const std::string& d : apart) {
      if (!is_expected(d)) group.foreign.push_back(d);
      if (!d.starts_with("optimizer.") || apart.size() == 1) label.push_back(d);
    }
    group.label = joined(label.empty() ? apart : label);
    std::vector<Pair> own = pair_up(table.baseline.runs, group.runs, group.label, table.notes);
    if (own.empty()) continue;
    if (&c == control) control_at = pairs.size();
    if (!group.foreign.empty())
      table.notes.push_back(fmt::format("{}: these are not only another recipe ({})", group.label,
                                        joined(group.foreign)));
    note_versions(group.label, group.runs, table.notes);
    table.groups.push_back(std::move(group));
    pairs.push_back(std::move(own));
  }
  NIBBLE_CHECK(!pairs.empty(), kOp, "no run has a finished partner of its seed in the baseline{}{}",
               table.notes.empty() ? "" : ": ", table.notes.empty() ? "" : table.notes.front());
  table.comparisons = compare(std::move(pairs), options.margin);
  if (control_at >= table.comparisons.size())
    table.notes.push_back(
        "no positive control: nothing shows that this table can tell a bad setting");
  else if (table.comparisons[control_at].verdict != Verdict::Worse &&
           table.comparisons[control_at].verdict != Verdict::Failed)
    table.notes.push_back(
        "the positive control is not shown to be worse: this table shows nothing");
  return table;
}

}  // namespace nibble::report
