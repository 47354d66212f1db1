// AdamW, SGD and stochastic bf16, an element a time as on the CPU (optim/update_math.h).
// Moves, an element: Adam 28 bytes with an f32 gradient, SGD 12 (20 with momentum), stochastic 6;
// bound by bandwidth. Eight elements a thread: they share one Philox call.
#include "optim/update_math.h"
#include "tensor/cuda/common.cuh"

namespace nibble::cuda {
namespace {

constexpr int kWidth = 8;
constexpr unsigned kBlock = 256;

template <class T>
__device__ void load(float (&x)[kWidth], const T* p, std::int64_t i, std::int64_t n, bool whole) {
  if (whole) {
    constexpr int kPart = kVector<T> < kWidth ? kVector<T> : kWidth;
#pragma unroll
    for (int at = 0; at < kWidth; at += kPart) {
      const Vector<T, kPart> v = load_vector<T, kPart>(p + i + at);
#pragma unroll
      for (int j = 0; j < kPart; ++j) x[at + j] = to_float(v[j]);
    }
    return;
  }
#pragma unroll
  for (int j = 0; j < kWidth; ++j) x[j] = i + j < n ? to_float(p[i + j]) : 0.0f;
}

__device__ void store(const float (&x)[kWidth], float* p, std::int64_t i, std::int64_t n,
                      bool whole) {
  if (whole) {
#pragma unroll
    for (int at = 0; at < kWidth; at += 4)
      store_vector(p + i + at, Vector<float, 4>{{x[at], x[at + 1], x[at + 2], x[at + 3]}});
    return;
  }
#pragma unroll
  for (int j = 0; j < kWidth; ++j)
    if (i + j < n) p[i + j] = x[j];
}

template <class G>
__global__ void adam_kernel(float* w, float* m, float* v, const G* gradient, std::int64_t n,
                            AdamRule rule, GroupRule group, const StepScalars* scalars,
                            const float* corrections, bool aligned) {
  const update::Adam step(rule, {group, *scalars}, corrections[0], corrections[1]);
  for (std::int64_t i = (blockIdx.x * std::int64_t{kBlock} + threadIdx.x) * kWidth; i < n;
       i += std::int64_t{gridDim.x} * kBlock * kWidth) {
    const bool whole = aligned && i + kWidth <= n;
    float wi[kWidth], mi[kWidth], vi[kWidth], gi[kWidth];
    load(wi, w, i, n, whole);
    load(mi, m, i, n, whole);
    load(vi, v, i, n, whole);
    load(gi, gradient, i, n, whole);
#pragma unroll
    for (int j = 0; j < kWidth; ++j) step(wi[j], mi[j], vi[j], gi[j]);
    store(wi, w, i, n, whole);
    store(mi, m, i, n, whole);
    store(vi, v, i, n, whole);
  }
}

template <class G>
__global__ void sgd_kernel(float* w, float* m, const G* gradient, std::int64_t n, SgdRule rule,
                           GroupRule group, const StepScalars* scalars, bool aligned) {
  const update::Sgd step{rule, {group, *scalars}};
  for (std::int64_t i = (blockIdx.x * std::int64_t{kBlock} + threadIdx.x) * kWidth; i < n;
       i += std::int64_t{gridDim.x} * kBlock * kWidth) {
    const bool whole = aligned && i + kWidth <= n;
    float wi[kWidth], mi[kWidth], gi[kWidth];
    load(wi, w, i, n, whole);
    load(gi, gradient, i, n, whole);
    if (m) {
      load(mi, m, i, n, whole);
#pragma unroll
      for (int j = 0; j < kWidth; ++j) step(wi[j], mi[j], gi[j]);
      store(mi, m, i, n, whole);
    } else {
#pragma unroll
      for (int j = 0; j < kWidth; ++j) step(wi[j], gi[j]);
    }
    store(wi, w, i, n, whole);
  }
}

__global__ void stochastic_kernel(bfloat16* y, const float* x, std::int64_t n, RngKey key,
                                  bool aligned) {
  const Draws16 draws(key, key.step_value());
  for (std::int64_t i = (blockIdx.x * std::int64_t{kBlock} + threadIdx.x) * kWidth; i < n;
       i += std::int64_t{gridDim.x} * kBlock * kWidth) {
    const bool whole = aligned && i + kWidth <= n;
    float xi[kWidth];
    load(xi, x, i, n, whole);
    const Philox noise = draws.block(static_cast<std::uint64_t>(i) / kWidth);
    Vector<bfloat16, kWidth> out;
#pragma unroll
    for (unsigned j = 0; j < kWidth; ++j)
      out[static_cast<int>(j)] = update::stochastic_bf16(xi[j], Draws16::pick(noise, j));
    if (whole) {
      store_vector(y + i, out);
    } else {
#pragma unroll
      for (int j = 0; j < kWidth; ++j)
        if (i + j < n) y[i + j] = out[j];
    }
  }
}

unsigned blocks_for(std::int64_t n) { return grid_for(ceil_div(n, kWidth), kBlock); }

template <class... P>
bool all_aligned(const P*... p) {
  return (is_aligned(p, 16) && ...);
}

}  // namespace

void adam(Tensor& w, Tensor& m, Tensor& v, const Tensor& gradient, const AdamRule& rule,
          const GroupRule& group, const StepScalars* step, const Tensor& corrections) {
  float *pw = w.data<float>(), *pm = m.data<float>(), *pv = v.data<float>();
  const float* pc = corrections.data<float>();
  const std::int64_t n = w.numel();
  NIBBLE_CUDA_FLOAT_SWITCH(gradient.dtype(), "adam", G, const G* pg = gradient.data<G>();
                           launch(adam_kernel<G>, blocks_for(n), kBlock, 0, pw, pm, pv, pg, n, rule,
                                  group, step, pc, all_aligned(pw, pm, pv, pg)));
}

void sgd(Tensor& w, Tensor& m, const Tensor& gradient, const SgdRule& rule, const GroupRule& group,
         const StepScalars* step) {
  float *pw = w.data<float>(), *pm = m.defined() ? m.data<float>() : nullptr;
  const std::int64_t n = w.numel();
  NIBBLE_CUDA_FLOAT_SWITCH(gradient.dtype(), "sgd", G, const G* pg = gradient.data<G>();
                           launch(sgd_kernel<G>, blocks_for(n), kBlock, 0, pw, pm, pg, n, rule,
                                  group, step, all_aligned(pw, pm, pg)));
}

void stochastic_bf16(Tensor& y, const Tensor& x, const RngKey& key) {
  auto* py = y.data<bfloat16>();
  const float* px = x.data<float>();
  const std::int64_t n = x.numel();
  launch(stochastic_kernel, blocks_for(n), kBlock, 0, py, px, n, key, all_aligned(py, px));
}

}  // namespace nibble::cuda
