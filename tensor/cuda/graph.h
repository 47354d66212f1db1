// Recording the work of the current stream as a CUDA graph. While it lasts, every launch of this
// thread becomes a node, nothing runs, and copies between host and device are refused (they would
// be repeated with what the host's memory then holds).
#pragma once

#include <cstdint>
#include <functional>

#include "tensor/cuda/context.h"

namespace nibble::cuda {

class Graph {
 public:
  Graph() = default;
  ~Graph();
  Graph(const Graph&) = delete;
  Graph& operator=(const Graph&) = delete;

  // Records what `work` puts on the stream of the current device, and makes it launchable. When
  // `work` throws, nothing is kept and the stream is as before.
  void record(const std::function<void()>& work);
  void launch() const;  // on the current stream
  bool recorded() const { return instance_ != nullptr; }

 private:
  cudaGraphExec_t instance_ = nullptr;
};

bool recording();  // whether this thread is inside Graph::record
// For use while recording: the work of `body` runs at a launch only if *flag (device memory) is 0
// when the stream reaches it.
void record_unless(const std::uint32_t* flag, const std::function<void()>& body);

}  // namespace nibble::cuda
