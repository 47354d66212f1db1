#include <cmath>

#include "optim/kernels.h"
#include "tensor/thread_pool.h"

namespace nibble::cpu {
namespace {

constexpr std::int64_t kGrain = 1 << 14;

template <class G>
void adam_span(float* w, float* m, float* v, const G* gradient, std::int64_t n,
               const AdamScalars& s) {
  const float one_b1 = 1.0f - s.beta1, one_b2 = 1.0f - s.beta2, rate = s.lr * s.correction1;
  for (std::int64_t i = 0; i < n; ++i) {
    const float g = s.clip * static_cast<float>(gradient[i]);
    const float mi = m[i] + one_b1 * (g - m[i]);
    const float vi = s.beta2 * v[i] + one_b2 * g * g;
    m[i] = mi;
    v[i] = vi;
    w[i] = w[i] * s.decay - rate * mi / (std::sqrt(vi) * s.correction2 + s.epsilon);
  }
}

template <class G>
void sgd_span(float* w, float* m, const G* gradient, std::int64_t n, const SgdScalars& s) {
  for (std::int64_t i = 0; i < n; ++i) {
    const float g = s.clip * static_cast<float>(gradient[i]);
    float step = g;
    if (m) {
      m[i] = s.momentum * m[i] + g;
      step = s.nesterov ? g + s.momentum * m[i] : m[i];
    }
    w[i] = w[i] * s.decay - s.lr * step;
  }
}

}  // namespace

void adam(Tensor& w, Tensor& m, Tensor& v, const Tensor& gradient, const AdamScalars& s) {
  float *pw = w.data<float>(), *pm = m.data<float>(), *pv = v.data<float>();
  NIBBLE_FLOAT_SWITCH(gradient.dtype(), "adam", G, const G* pg = gradient.data<G>();
                      parallel_for(w.numel(), kGrain, [&](std::int64_t b, std::int64_t e) {
                        adam_span(pw + b, pm + b, pv + b, pg + b, e - b, s);
                      }));
}

void sgd(Tensor& w, Tensor& m, const Tensor& gradient, const SgdScalars& s) {
  float *pw = w.data<float>(), *pm = m.defined() ? m.data<float>() : nullptr;
  NIBBLE_FLOAT_SWITCH(gradient.dtype(), "sgd", G, const G* pg = gradient.data<G>();
                      parallel_for(w.numel(), kGrain, [&](std::int64_t b, std::int64_t e) {
                        sgd_span(pw + b, pm ? pm + b : nullptr, pg + b, e - b, s);
                      }));
}

void stochastic_bf16(Tensor& y, const Tensor& x, const RngKey& key) {
  const Draws16 draws(key, key.step_value());
  const float* px = x.data<float>();
  auto* py = y.data<bfloat16>();
  parallel_for(x.numel(), kGrain, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      const auto bits = std::bit_cast<std::uint32_t>(px[i]);
      const bool finite = (bits & 0x7f800000u) != 0x7f800000u;
      py[i] = finite ? bfloat16::from_bits(static_cast<std::uint16_t>(
                           (bits + draws(static_cast<std::uint64_t>(i))) >> 16))
                     : bfloat16(px[i]);
    }
  });
}

}  // namespace nibble::cpu
