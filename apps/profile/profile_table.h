// A profile of kernels as tables in Markdown.
#pragma once

#include <optional>
#include <string>

#include "apps/profile/kernel_profile.h"

namespace nibble::profile {

// What a device can do at most by its maker's datasheet (dense), and what its memory moves when it
// copies, read and written, measured; operations and bytes a second.
struct Ceilings {
  double int8, fp8, bf16, copy;
};
std::optional<Ceilings> ceilings_of(const std::string& processor);

// By class: launches, time, its share of the step, and for products and attention the rate and its
// share of the ceiling; then the time in which nothing ran, the step's own share, and the least
// time that memory takes: what a step keeps is written and read at least once.
std::string class_table(const KernelProfile& profile);
// The `most` that take longest.
std::string kernel_table(const KernelProfile& profile, std::size_t most);

}  // namespace nibble::profile
