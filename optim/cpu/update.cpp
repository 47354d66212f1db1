#include <cmath>

#include "optim/update_math.h"
#include "tensor/thread_pool.h"

namespace nibble::cpu {
namespace {

constexpr std::int64_t kGrain = 1 << 14;

template <class G>
void adam_span(float* w, float* m, float* v, const G* gradient, std::int64_t n,
               const update::Adam& step) {
  for (std::int64_t i = 0; i < n; ++i) step(w[i], m[i], v[i], static_cast<float>(gradient[i]));
}

template <class G>
void sgd_span(float* w, float* m, const G* gradient, std::int64_t n, const update::Sgd& step) {
  if (m)
    for (std::int64_t i = 0; i < n; ++i) step(w[i], m[i], static_cast<float>(gradient[i]));
  else
    for (std::int64_t i = 0; i < n; ++i) step(w[i], static_cast<float>(gradient[i]));
}

}  // namespace

void adam(Tensor& w, Tensor& m, Tensor& v, const Tensor& gradient, const AdamScalars& s) {
  float *pw = w.data<float>(), *pm = m.data<float>(), *pv = v.data<float>();
  const update::Adam step(s);
  NIBBLE_FLOAT_SWITCH(gradient.dtype(), "adam", G, const G* pg = gradient.data<G>();
                      parallel_for(w.numel(), kGrain, [&](std::int64_t b, std::int64_t e) {
                        adam_span(pw + b, pm + b, pv + b, pg + b, e - b, step);
                      }));
}

void sgd(Tensor& w, Tensor& m, const Tensor& gradient, const SgdScalars& s) {
  float *pw = w.data<float>(), *pm = m.defined() ? m.data<float>() : nullptr;
  NIBBLE_FLOAT_SWITCH(gradient.dtype(), "sgd", G, const G* pg = gradient.data<G>();
                      parallel_for(w.numel(), kGrain, [&](std::int64_t b, std::int64_t e) {
                        sgd_span(pw + b, pm ? pm + b : nullptr, pg + b, e - b, update::Sgd{s});
                      }));
}

void stochastic_bf16(Tensor& y, const Tensor& x, const RngKey& key) {
  const Draws16 draws(key, key.step_value());
  const float* px = x.data<float>();
  auto* py = y.data<bfloat16>();
  parallel_for(x.numel(), kGrain, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i)
      py[i] = update::stochastic_bf16(px[i], draws(static_cast<std::uint64_t>(i)));
  });
}

}  // namespace nibble::cpu
