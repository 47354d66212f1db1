// Runs that differ in nothing but their seed form a group; groups are compared with a baseline.
#pragma once

#include <string>
#include <vector>

#include "apps/report/paired.h"
#include "apps/report/run_record.h"

namespace nibble::report {

struct Group {
  std::string label;                   // what sets it apart: "recipe=int8"
  std::vector<const RunRecord*> runs;  // those that count, by seed
  std::vector<std::string> foreign;    // differences that are neither recipe nor optimizer
};

struct Table {
  std::string metric;  // "validation loss, nats a token"
  double margin = 0;
  Group baseline;
  std::vector<Group> groups;            // the others
  std::vector<Comparison> comparisons;  // theirs
  std::vector<std::string> notes;       // runs left out and why; what the table cannot show
};

struct CompareOptions {
  std::string baseline =
      {};                    // the name of a run of that group; empty: the group with recipe "none"
  std::string control = {};  // likewise, of the group that is known to be bad; empty: none
  double margin = 0.01;
  Json defaults = Json::object();  // what a key stands at that a run's program did not know yet
};
// By the last validation of finished runs (apps/report/pairing.h says which count); a group without
// a partner of the same seed and data in the baseline is left out. Throws Error "compare: …" when
// there is nothing to compare, or two runs of one seed contradict each other.
Table compare_runs(const std::vector<RunRecord>& runs, const CompareOptions& options);

}  // namespace nibble::report
