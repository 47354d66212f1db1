#include "apps/train/batch_stage.h"

#include <algorithm>

#ifdef NIBBLE_CUDA_BACKEND
#include "tensor/cuda/context.h"
#endif

namespace nibble::train {

BatchStage::BatchStage(std::int64_t micro_batches, std::int64_t batch, std::int64_t length,
                       Device device)
    : tokens_(batch * length), device_(device) {
  const MemoryScope scope("batch");
  for (std::int64_t i = 0; i < micro_batches; ++i)
    pairs_.push_back({Tensor::zeros({batch, length}, DType::I32, device),
                      Tensor::zeros({batch, length}, DType::I32, device)});
#ifdef NIBBLE_CUDA_BACKEND
  if (device.is_cuda()) {
    cuda::use(device.index);
    pinned_ = static_cast<std::int32_t*>(cuda::allocate_pinned(
        static_cast<std::size_t>(2 * micro_batches * tokens_) * sizeof(std::int32_t)));
  }
#endif
}

BatchStage::~BatchStage() {
#ifdef NIBBLE_CUDA_BACKEND
  if (pinned_) cuda::free_pinned(pinned_);
#endif
}

void BatchStage::put(std::int64_t micro, const Batch& batch) {
  Pair& pair = pairs_.at(static_cast<std::size_t>(micro));
  const auto copy = [&](Tensor& to, std::span<const std::int32_t> from,
                        [[maybe_unused]] std::int64_t part) {
    NIBBLE_CHECK(static_cast<std::int64_t>(from.size()) == tokens_, "batch",
                 "got {} tokens, expected {}", from.size(), tokens_);
    to.bump_version();
#ifdef NIBBLE_CUDA_BACKEND
    if (device_.is_cuda()) {
      std::int32_t* staged = pinned_ + (2 * micro + part) * tokens_;
      std::copy(from.begin(), from.end(), staged);
      cuda::use(device_.index);
      cuda::copy_to_device(to.data<std::int32_t>(), staged, from.size_bytes());
      return;
    }
#endif
    std::copy(from.begin(), from.end(), to.data<std::int32_t>());
  };
  copy(pair.ids, batch.inputs, 0);
  copy(pair.targets, batch.targets, 1);
}

}  // namespace nibble::train
