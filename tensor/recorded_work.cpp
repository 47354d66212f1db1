#include "tensor/recorded_work.h"

#include "tensor/check.h"
#include "tensor/storage.h"

#ifdef NIBBLE_CUDA_BACKEND
#include "tensor/cuda/graph.h"
#endif

namespace nibble {

struct RecordedWork::Impl {
  explicit Impl(Device on) : device(on), pool(on) {}
  Device device;
  MemoryPool pool;
#ifdef NIBBLE_CUDA_BACKEND
  cuda::Graph graph;  // destroyed before the memory that it works in
#endif
};

RecordedWork::RecordedWork(Device device) {
  NIBBLE_CHECK(supported(device), "graph", "got device {}, expected a GPU of a CUDA build", device);
  check_available(device);
  impl_ = std::make_unique<Impl>(device);
}

bool RecordedWork::supported([[maybe_unused]] Device device) {
#ifdef NIBBLE_CUDA_BACKEND
  return device.is_cuda();
#else
  return false;
#endif
}

#ifdef NIBBLE_CUDA_BACKEND
RecordedWork::~RecordedWork() {
  if (!impl_) return;
  try {
    cuda::use(impl_->device.index);
    cuda::wait();           // a replay may be under way
  } catch (const Error&) {  // a destructor has nobody to tell; the next call on the device will
  }
}
void RecordedWork::record(const std::function<void()>& work) {
  cuda::use(impl_->device.index);
  const MemoryPool::Use use(impl_->pool);
  impl_->graph.record(work);
}
void RecordedWork::replay() {
  cuda::use(impl_->device.index);
  impl_->graph.launch();
}
void RecordedWork::run(const std::function<void()>& work) {
  const MemoryPool::Use use(impl_->pool);
  work();
}
bool RecordedWork::recorded() const { return impl_->graph.recorded(); }
#else
RecordedWork::~RecordedWork() = default;
void RecordedWork::record(const std::function<void()>&) {}
void RecordedWork::replay() {}
void RecordedWork::run(const std::function<void()>&) {}
bool RecordedWork::recorded() const { return false; }
#endif

}  // namespace nibble
