// TapeObserver: looks at what a pass computes, operation by operation.
#pragma once

#include <cstdint>
#include <string>

#include "tensor/tensor.h"

namespace nibble {

// Set by Tape::set_observer; unset, it costs a comparison with null an operation. A checkpoint
// hands it to the tape of its recomputation, so what lies inside is seen once, in backward.
class TapeObserver {
 public:
  // (recording, index) names the operation for as long as the process runs.
  struct Op {
    const std::string& module;  // path, "" outside modules
    const char* name;           // "linear"
    std::uint64_t recording;
    std::size_t index;  // in the order of execution within its recording
  };
  virtual ~TapeObserver() = default;
  // The output of a recorded operation, any strides, on its device. Keep a clone, not the handle:
  // its owner may write to it later.
  virtual void output(const Op& op, const Tensor& value) = 0;
  // The whole gradient of that output, just before the operation's own backward reads it. Not
  // called for an output that the loss does not depend on.
  virtual void gradient(const Op& op, const Tensor& value) = 0;
};

}  // namespace nibble
