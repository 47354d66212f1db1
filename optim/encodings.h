// Forms of weights (Parameter::Form) that a training step uses: written again where they lie after
// the update, all in one call of recode and one of cast_all (kernels.h).
#pragma once

#include <string>
#include <vector>

#include "autograd/parameter.h"

namespace nibble {

// Before an update of the parameters, which are of one device: the forms that were used since the
// last one become kept, if the kernels take them.
void hold_encodings(const std::vector<Parameter*>& parameters);
// After it, changed or not: writes them again and drops all others, which are made at their next
// use.
void refresh_encodings(const std::vector<Parameter*>& parameters);

// To be called before work that updates the parameters is recorded (RecordedWork), and before each
// replay: the kept forms stay where they are from now on, for the recording reads and writes them.
// All others are dropped: it has left them out, or makes its own.
void keep_encodings(const std::vector<Parameter*>& parameters);

// Why the kernels don't take a form of a value, in a few words; "" when they do. The same on every
// device.
std::string encoding_refusal(const Value& value, const Parameter::Form& form);

// Those of the parameters' forms that each update drops.
struct LazyEncoding {
  std::string name, reason;  // of the parameter
};
std::vector<LazyEncoding> lazy_encodings(const std::vector<Parameter*>& parameters);

}  // namespace nibble
