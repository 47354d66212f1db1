#include <algorithm>
#include <cmath>

#include "tensor/cpu/lanes.h"
#include "tensor/cpu/loops.h"
#include "tensor/kernels.h"

namespace nibble::cpu {
namespace {

// layer_norm is Centred; rms_norm is the same without the mean.
template <bool Centred, class T>
void forward(Tensor& y, Tensor* mean, Tensor& rstd, const Tensor& x, const Tensor& gamma,
             const T* shift, double epsilon) {
  using C = compute_t<T>;
  const std::int64_t n = x.cols();
  const T* in = x.data<T>();
  const T* scale = gamma.data<T>();
  T* out = y.data<T>();
  C* mu_out = Centred ? mean->data<C>() : nullptr;
  C* rstd_out = rstd.data<C>();
  parallel_for(x.rows(), row_grain(n), [=](std::int64_t begin, std::int64_t end) {
    for (std::int64_t r = begin; r < end; ++r) {
      const T* from = in + r * n;
      const C mu = Centred ? lane_sum<C>(from, n) / static_cast<C>(n) : C(0);
      const C squares = lane_fold<C>(
          n, SumFold{}, [mu](C v) { return (v - mu) * (v - mu); }, from);
      const C inverse = C(1) / std::sqrt(squares / static_cast<C>(n) + static_cast<C>(epsilon));
      if (shift)
        map_range(
            out + r * n, 0, n,
            [mu, inverse](C v, C g, C b) { return std::fma((v - mu) * inverse, g, b); }, from,
            scale, shift);
      else
        map_range(
            out + r * n, 0, n, [mu, inverse](C v, C g) { return (v - mu) * inverse * g; }, from,
            scale);
      if constexpr (Centred) mu_out[r] = mu;
      rstd_out[r] = inverse;
    }
  });
}

// total[c] += Σ over chunks of partial[chunk, which, c], in ascending order of chunks.
template <class C>
void add_partials(Tensor& total, const Tensor& partial, std::int64_t which) {
  if (!total.defined()) return;
  const std::int64_t chunks = partial.size(0), n = partial.size(2);
  const C* parts = partial.data<C>() + which * n;
  NIBBLE_FLOAT_SWITCH(total.dtype(), "norm_backward", D, {
    D* out = total.data<D>();
    parallel_for(n, 1024, [=](std::int64_t begin, std::int64_t end) {
      for (std::int64_t c = begin; c < end; ++c) {
        C sum = 0;
        for (std::int64_t k = 0; k < chunks; ++k) sum += parts[k * 2 * n + c];
        out[c] = static_cast<D>(static_cast<compute_t<D>>(out[c]) + static_cast<compute_t<D>>(sum));
      }
    });
  });
}

// With x̂ = (x − µ)·rstd and g = dy·γ: dx = rstd·(g − mean(g) − x̂·mean(g·x̂)), where rms_norm has no
// mean(g); dγ = Σ dy·x̂ and dβ = Σ dy over rows. The rows of a chunk are fixed, and so is the order
// in which their sums are combined.
template <bool Centred, class T>
void backward(Tensor& dx, Tensor& dgamma, Tensor* dbeta, const Tensor& dy, const Tensor& x,
              const Tensor& gamma, const Tensor* mean, const Tensor& rstd) {
  using C = compute_t<T>;
  constexpr std::int64_t kRows = 256;
  const std::int64_t m = x.rows(), n = x.cols();
  const bool parameters = dgamma.defined() || (dbeta && dbeta->defined());
  Tensor partial = Tensor::zeros({parameters ? (m + kRows - 1) / kRows : 0, 2, n}, dtype_of<C>);
  C* parts = partial.data<C>();
  const T* in = x.data<T>();
  const T* grad = dy.data<T>();
  const T* scale = gamma.data<T>();
  const C* mu_in = Centred ? mean->data<C>() : nullptr;
  const C* rstd_in = rstd.data<C>();
  T* out = dx.defined() ? dx.data<T>() : nullptr;
  parallel_for(m, kRows, [=](std::int64_t begin, std::int64_t end) {
    for (std::int64_t r = begin; r < end; ++r) {
      const T* g = grad + r * n;
      const T* v = in + r * n;
      const C mu = Centred ? mu_in[r] : C(0), inverse = rstd_in[r];
      if (parameters) {
        C* to = parts + begin / kRows * 2 * n;
#pragma GCC ivdep
        for (std::int64_t c = 0; c < n; ++c) {
          const C d = static_cast<C>(g[c]);
          to[c] = std::fma(d, (static_cast<C>(v[c]) - mu) * inverse, to[c]);
          to[n + c] += d;
        }
      }
      if (!out) continue;
      const C mean_g = Centred ? lane_fold<C>(
                                     n, SumFold{}, [](C d, C s) { return d * s; }, g, scale) /
                                     static_cast<C>(n)
                               : C(0);
      const C mean_gx =
          lane_fold<C>(
              n, SumFold{}, [mu, inverse](C d, C s, C u) { return d * s * ((u - mu) * inverse); },
              g, scale, v) /
          static_cast<C>(n);
      map_range(
          out + r * n, 0, n,
          [=](C d, C s, C u) { return inverse * (d * s - mean_g - (u - mu) * inverse * mean_gx); },
          g, scale, v);
    }
  });
  if (!parameters) return;
  add_partials<C>(dgamma, partial, 0);
  if (dbeta) add_partials<C>(*dbeta, partial, 1);
}

}  // namespace

void layer_norm(Tensor& y, Tensor& mean, Tensor& rstd, const Tensor& x, const Tensor& gamma,
                const Tensor& beta, double epsilon) {
  NIBBLE_FLOAT_SWITCH(
      x.dtype(), "layer_norm", T,
      forward<true>(y, &mean, rstd, x, gamma, beta.defined() ? beta.data<T>() : nullptr, epsilon));
}

void layer_norm_backward(Tensor& dx, Tensor& dgamma, Tensor& dbeta, const Tensor& dy,
                         const Tensor& x, const Tensor& gamma, const Tensor& mean,
                         const Tensor& rstd) {
  NIBBLE_FLOAT_SWITCH(x.dtype(), "layer_norm_backward", T,
                      backward<true, T>(dx, dgamma, &dbeta, dy, x, gamma, &mean, rstd));
}

void rms_norm(Tensor& y, Tensor& rstd, const Tensor& x, const Tensor& gamma, double epsilon) {
  NIBBLE_FLOAT_SWITCH(
      x.dtype(), "rms_norm", T,
      forward<false>(y, nullptr, rstd, x, gamma, static_cast<const T*>(nullptr), epsilon));
}

void rms_norm_backward(Tensor& dx, Tensor& dgamma, const Tensor& dy, const Tensor& x,
                       const Tensor& gamma, const Tensor& rstd) {
  NIBBLE_FLOAT_SWITCH(x.dtype(), "rms_norm_backward", T,
                      backward<false, T>(dx, dgamma, nullptr, dy, x, gamma, nullptr, rstd));
}

}  // namespace nibble::cpu
