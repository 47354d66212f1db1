// Which runs of two groups form pairs, and why the others do not.
#pragma once

#include <string>
#include <vector>

#include "apps/report/paired.h"
#include "apps/report/run_record.h"

namespace nibble::report {

// The runs of one configuration that count: finished or failed, validated after their last step,
// one for a seed and its data. The others are left out by name in `notes`, copies too: a seed given
// three times is one observation. Throws Error("compare") when two runs of one seed and data end
// differently: neither may be chosen.
std::vector<const RunRecord*> countable(const std::vector<const RunRecord*>& group,
                                        std::vector<std::string>& notes);

// Pairs of equal seed and data, at most one a seed, of runs that count. `notes` tells each run that
// has no partner, and the seeds of the baseline that `label` lacks.
std::vector<Pair> pair_up(const std::vector<const RunRecord*>& baseline,
                          const std::vector<const RunRecord*>& other, const std::string& label,
                          std::vector<std::string>& notes);

}  // namespace nibble::report
