// The scalars of a step, on the device, a thread each: microseconds of latency and no traffic. They
// exist so that neither an eager nor a recorded step waits for the host.
#include "optim/update_math.h"
#include "tensor/cuda/common.cuh"

namespace nibble::cuda {
namespace {

template <class T>
__global__ void loss_kernel(StepScalars* step, const T* loss, double divisor) {
  update::accumulate_loss(*step, static_cast<double>(to_float(*loss)), divisor);
}

__global__ void clip_kernel(StepScalars* step, const double* squares, double max_norm) {
  update::clip_by_norm(*step, *squares, max_norm);
}

__global__ void count_kernel(double* updates, double* skipped, std::int32_t* number,
                             const StepScalars* step) {
  if (step->bad) {
    if (skipped) *skipped += 1;
    return;
  }
  if (!updates) return;
  *updates += 1;
  *number = static_cast<std::int32_t>(*updates);
}

__global__ void corrections_kernel(float* corrections, double* power1, double* power2, double beta1,
                                   double beta2) {
  update::adam_corrections(corrections, *power1, *power2, beta1, beta2);
}

}  // namespace

void accumulate_loss(StepScalars* step, const Tensor& loss, double divisor) {
  NIBBLE_CUDA_FLOAT_SWITCH(loss.dtype(), "accumulate_loss", T,
                           launch(loss_kernel<T>, 1, 1, 0, step, loss.data<T>(), divisor));
}

void clip_by_norm(StepScalars* step, const Tensor& squares, double max_norm) {
  launch(clip_kernel, 1, 1, 0, step, squares.data<double>(), max_norm);
}

void count_update(Tensor& updates, Tensor& skipped, Tensor& number, const StepScalars* step) {
  const auto counter = [](Tensor& t) { return t.defined() ? t.data<double>() : nullptr; };
  launch(count_kernel, 1, 1, 0, counter(updates), counter(skipped), number.data<std::int32_t>(),
         step);
}

void adam_corrections(Tensor& corrections, Tensor& power1, Tensor& power2, double beta1,
                      double beta2) {
  launch(corrections_kernel, 1, 1, 0, corrections.data<float>(), power1.data<double>(),
         power2.data<double>(), beta1, beta2);
}

}  // namespace nibble::cuda
