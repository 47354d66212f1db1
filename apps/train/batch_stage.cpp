#include "apps/train/batch_stage.h"

#include <algorithm>

#ifdef NIBBLE_CUDA_BACKEND
#include "tensor/cuda/context.h"
#endif

namespace nibble::train {

BatchStage::BatchStage(std::int64_t micro_batches, std::int64_t batch, std::int64_t length,
                       Device device)
    : tokens_(batch * length), targets_at_((tokens_ + 63) / 64 * 64), device_(device) {
  const MemoryScope scope("batch");
  for (std::int64_t i = 0; i < micro_batches; ++i) {
    both_.push_back(Tensor::zeros({2, targets_at_}, DType::I32, device));
    const auto part = [&](std::int64_t which) {
      return both_.back().select(0, which).slice(0, 0, tokens_).view({batch, length});
    };
    pairs_.push_back({part(0), part(1)});
  }
#ifdef NIBBLE_CUDA_BACKEND
  if (device.is_cuda()) {
    cuda::use(device.index);
    pinned_ = static_cast<std::int32_t*>(cuda::allocate_pinned(
        static_cast<std::size_t>(2 * micro_batches * targets_at_) * sizeof(std::int32_t)));
  }
#endif
}

BatchStage::~BatchStage() {
#ifdef NIBBLE_CUDA_BACKEND
  if (pinned_) cuda::free_pinned(pinned_);
#endif
}

void BatchStage::put(std::int64_t micro, const Batch& batch) {
  Tensor& both = both_.at(static_cast<std::size_t>(micro));
  std::int32_t* to = nullptr;
#ifdef NIBBLE_CUDA_BACKEND
  if (device_.is_cuda()) to = pinned_ + 2 * micro * targets_at_;
#endif
  if (!to) to = both.data<std::int32_t>();
  const auto write = [&](std::span<const std::int32_t> from, std::int32_t* at) {
    NIBBLE_CHECK(static_cast<std::int64_t>(from.size()) == tokens_, "batch",
                 "got {} tokens, expected {}", from.size(), tokens_);
    std::copy(from.begin(), from.end(), at);
  };
  write(batch.inputs, to);
  write(batch.targets, to + targets_at_);
  both.bump_version();
#ifdef NIBBLE_CUDA_BACKEND
  if (!device_.is_cuda()) return;
  cuda::use(device_.index);
  cuda::copy_to_device(both.data<std::int32_t>(), to,
                       static_cast<std::size_t>(targets_at_ + tokens_) * sizeof(std::int32_t));
#endif
}

}  // namespace nibble::train
