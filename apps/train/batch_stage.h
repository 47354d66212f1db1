// The token tensors that a step reads: one pair for each micro-batch, at the same place in every
// step, so that a recorded step finds its data. On a GPU they are filled through pinned memory.
#pragma once

#include <vector>

#include "data/loader.h"
#include "tensor/tensor.h"

namespace nibble::train {

class BatchStage {
 public:
  struct Pair {
    Tensor ids, targets;  // I32 [batch, length]
  };
  BatchStage(std::int64_t micro_batches, std::int64_t batch, std::int64_t length, Device device);
  ~BatchStage();
  BatchStage(const BatchStage&) = delete;
  BatchStage& operator=(const BatchStage&) = delete;

  // Queues the copy of a batch; the device reads it when it comes to the work queued after. What
  // was put there before must have been read: call it again only after a synchronisation.
  void put(std::int64_t micro, const Batch& batch);
  const Pair& operator[](std::int64_t micro) const {
    return pairs_.at(static_cast<std::size_t>(micro));
  }

 private:
  std::int64_t tokens_;      // of a micro-batch
  std::int64_t targets_at_;  // from its ids; whole vectors, so that both are aligned alike
  Device device_;
  std::vector<Tensor> both_;        // ids and targets of a micro-batch, which one copy fills
  std::vector<Pair> pairs_;         // parts of them
  std::int32_t* pinned_ = nullptr;  // as both_, one after the other; GPUs only
};

}  // namespace nibble::train
