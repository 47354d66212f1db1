#include "apps/report/pairing.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <set>

#include "tensor/check.h"

namespace nibble::report {
namespace {

// Why a run cannot count, whatever it is paired with; empty: it can.
std::string fault_of(const RunRecord& run) {
  if (run.status == Status::Failed) return "";
  if (run.status != Status::Finished) return run.status_text();
  if (run.validation.empty()) return "it has no validation loss";
  // A kill between the last checkpoint and the last evaluation leaves an earlier one as the last.
  if (run.validation.back().step < run.steps)
    return fmt::format("its last validation is of step {} of {}", run.validation.back().step,
                       run.steps);
  return "";
}

bool same_number(double a, double b) { return a == b || (std::isnan(a) && std::isnan(b)); }

// A run is a function of its configuration, seed and data, so copies and repetitions agree.
bool agree(const RunRecord& a, const RunRecord& b) {
  return a.status == b.status && same_number(a.final_loss(), b.final_loss());
}

// " (commits A and B)" where two programs made them.
std::string versions_of(const RunRecord& a, const RunRecord& b) {
  if (a.commit == b.commit || a.commit.empty() || b.commit.empty()) return "";
  return fmt::format(" (commits {} and {})", a.commit.substr(0, 12), b.commit.substr(0, 12));
}

// Not finite, more than 0.5 above its baseline at the end, or 0.3 above its own minimum.
bool has_failed(const RunRecord& run, double baseline) {
  double least = run.final_loss();
  for (const ValidationRow& v : run.validation) least = std::fmin(least, v.loss);
  const double end = run.final_loss();
  return run.status == Status::Failed || !std::isfinite(end) || end > baseline + 0.5 ||
         end > least + 0.3;
}

}  // namespace

std::vector<const RunRecord*> countable(const std::vector<const RunRecord*>& group,
                                        std::vector<std::string>& notes) {
  std::vector<const RunRecord*> counted;
  for (const RunRecord* run : group) {
    if (const std::string fault = fault_of(*run); !fault.empty()) {
      notes.push_back(fmt::format("{} is left out: {}", run->name, fault));
      continue;
    }
    const auto twin = std::ranges::find_if(counted, [&](const RunRecord* other) {
      return other->seed == run->seed && other->data_hash == run->data_hash;
    });
    if (twin == counted.end()) {
      counted.push_back(run);
      continue;
    }
    NIBBLE_CHECK(agree(**twin, *run), "compare",
                 "two runs of one configuration, seed {} and data: got {} ({}, loss {:.6g}) and {} "
                 "({}, loss {:.6g}), expected equal ends; hint: find out why they differ{} and "
                 "leave one out",
                 run->seed, (*twin)->name, (*twin)->status_text(), (*twin)->final_loss(), run->name,
                 run->status_text(), run->final_loss(), versions_of(**twin, *run));
    notes.push_back(fmt::format("{} is left out: it repeats {} (seed {}, the same end)", run->name,
                                (*twin)->name, run->seed));
  }
  return counted;
}

std::vector<Pair> pair_up(const std::vector<const RunRecord*>& baseline,
                          const std::vector<const RunRecord*>& other, const std::string& label,
                          std::vector<std::string>& notes) {
  std::vector<Pair> pairs;
  std::set<std::uint64_t> paired;
  for (const RunRecord* run : other) {
    const RunRecord* partner = nullptr;  // of its seed, and if there is one, of its data
    for (const RunRecord* b : baseline)
      if (b->seed == run->seed && (!partner || b->data_hash == run->data_hash)) partner = b;
    std::string fault;
    if (!partner)
      fault = fmt::format("the baseline has no finished run of seed {}", run->seed);
    else if (partner->data_hash != run->data_hash)
      fault = fmt::format("it read other data than {}", partner->name);
    else if (partner->status == Status::Failed || !std::isfinite(partner->final_loss()))
      fault = fmt::format("its partner {} failed", partner->name);
    else if (!paired.insert(run->seed).second)
      fault = fmt::format("seed {} has a pair already, on other data", run->seed);
    if (!fault.empty()) {
      notes.push_back(fmt::format("{} is left out: {}", run->name, fault));
      continue;
    }
    const double loss = partner->final_loss();
    pairs.push_back({run->seed, loss, run->final_loss(), has_failed(*run, loss)});
  }
  std::string lacking;
  for (const RunRecord* b : baseline)
    if (std::ranges::find(other, b->seed, &RunRecord::seed) == other.end())
      lacking += fmt::format("{}{}", lacking.empty() ? "" : ", ", b->seed);
  if (!other.empty() && !lacking.empty())
    notes.push_back(fmt::format("{} lacks the baseline's seed {}", label, lacking));
  return pairs;
}

}  // namespace nibble::report
