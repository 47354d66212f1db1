#include "apps/report/groups.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>

#include "tensor/check.h"

namespace nibble::report {
namespace {

constexpr const char* kOp = "compare";
// What tells nothing about the model that comes out.
constexpr std::string_view kIgnored[] = {
    "trainer.seed",       "trainer.log_every",       "trainer.keep",  "trainer.checkpoint_every",
    "trainer.eval_every", "trainer.telemetry_every", "trainer.graph", "data.path"};

using Flat = std::map<std::string, std::string>;

Flat traits_of(const RunRecord& run) {
  Flat flat;
  for (const auto& [key, value] : flatten(run.config))
    if (std::ranges::find(kIgnored, key) == std::end(kIgnored)) flat[key] = value;
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

std::vector<Cluster> cluster(const std::vector<RunRecord>& runs) {
  std::vector<Cluster> all;
  for (const RunRecord& run : runs) {
    const Flat traits = traits_of(run);
    auto at = std::ranges::find(all, traits, &Cluster::traits);
    if (at == all.end()) at = all.insert(all.end(), {traits, {}});
    at->runs.push_back(&run);
  }
  for (Cluster& c : all) std::ranges::sort(c.runs, {}, &RunRecord::seed);
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

// Not finite, more than 0.5 above its baseline at the end, or 0.3 above its own minimum.
bool has_failed(const RunRecord& run, double baseline) {
  double least = run.final_loss();
  for (const ValidationRow& v : run.validation) least = std::fmin(least, v.loss);
  const double end = run.final_loss();
  return !std::isfinite(end) || end > baseline + 0.5 || end > least + 0.3;
}

std::vector<Pair> pair_up(const Cluster& base, const Cluster& other,
                          std::vector<std::string>& notes) {
  std::vector<Pair> pairs;
  for (const RunRecord* run : other.runs) {
    const auto partner = std::ranges::find(base.runs, run->seed, &RunRecord::seed);
    const bool failed = run->status == Status::Failed;
    if (run->status != Status::Finished && !failed) {
      notes.push_back(fmt::format("{} is left out: {}", run->name, run->status_text()));
    } else if (!failed && run->validation.empty()) {
      notes.push_back(fmt::format("{} is left out: it has no validation loss", run->name));
    } else if (partner == base.runs.end() || (*partner)->validation.empty() ||
               (*partner)->status != Status::Finished) {
      notes.push_back(fmt::format("{} is left out: the baseline has no finished run of seed {}",
                                  run->name, run->seed));
    } else if ((*partner)->data_hash != run->data_hash) {
      notes.push_back(
          fmt::format("{} is left out: it read other data than {}", run->name, (*partner)->name));
    } else {
      const double loss = (*partner)->final_loss();
      pairs.push_back({run->seed, loss, run->final_loss(), failed || has_failed(*run, loss)});
    }
  }
  return pairs;
}

std::string joined(const std::vector<std::string>& words) {
  std::string text;
  for (const std::string& w : words) text += (text.empty() ? "" : ", ") + w;
  return text;
}

}  // namespace

Table compare_runs(const std::vector<RunRecord>& runs, const CompareOptions& options) {
  NIBBLE_CHECK(runs.size() >= 2, kOp, "got {} run, expected at least two", runs.size());
  const std::vector<Cluster> all = cluster(runs);
  NIBBLE_CHECK(all.size() >= 2, kOp,
               "the {} runs differ in nothing but their seeds: there is nothing to compare",
               runs.size());
  const Cluster& base = baseline_of(all, options.baseline);
  const Cluster* control =
      options.control.empty() ? nullptr : with_run(all, options.control, "control");
  NIBBLE_CHECK(control != &base, kOp, "--control: got '{}', which is a run of the baseline",
               options.control);

  Table table{.metric = "validation loss, nats a token",
              .margin = options.margin,
              .baseline = {"recipe=" + recipe_of(base), base.runs, {}},
              .groups = {},
              .comparisons = {},
              .notes = {}};
  std::vector<std::vector<Pair>> pairs;
  std::size_t control_at = ~std::size_t{0};
  for (const Cluster& c : all) {
    if (&c == &base) continue;
    std::vector<Pair> own = pair_up(base, c, table.notes);
    if (own.empty()) continue;
    if (&c == control) control_at = pairs.size();
    const std::vector<std::string> apart = differences(base.traits, c.traits);
    Group group{.label = {}, .runs = c.runs, .foreign = {}};
    std::vector<std::string> label;
    for (const std::string& d : apart) {
      if (!is_expected(d)) group.foreign.push_back(d);
      if (!d.starts_with("optimizer.") || apart.size() == 1) label.push_back(d);
    }
    group.label = joined(label.empty() ? apart : label);
    if (!group.foreign.empty())
      table.notes.push_back(fmt::format("{}: these are not only another recipe ({})", group.label,
                                        joined(group.foreign)));
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
