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

void sum_squares_of_all(Tensor& y, const std::vector<Tensor>& x) {
  double total = 0;
  for (const Tensor& one : x) {
    sum_squares(y, one, false);
    total += *y.data<double>();
  }
  *y.data<double>() = total;
}

void accumulate_loss(StepScalars* step, const Tensor& loss, double divisor) {
  update::accumulate_loss(*step, loss.item(), divisor);
}

void clip_by_norm(StepScalars* step, const Tensor& squares, double max_norm) {
  update::clip_by_norm(*step, *squares.data<double>(), max_norm);
}

void clip_each(StepScalars* step, Tensor& total, Tensor& clips,
               const std::vector<Tensor>& gradients, double max_norm) {
  Tensor squares = Tensor::zeros({1}, DType::F64);
  for (std::size_t i = 0; i < gradients.size(); ++i) {
    sum_squares(squares, gradients[i], false);
    update::clip_parameter(*step, *total.data<double>(), *squares.data<double>(), max_norm);
    clips.data<float>()[i] = step->clip;
  }
}

void count_update(Tensor& updates, Tensor& skipped, Tensor& number, const StepScalars* step) {
  if (step->bad) {
    if (skipped.defined()) *skipped.data<double>() += 1;
    return;
  }
  if (!updates.defined()) return;
  *updates.data<double>() += 1;
  *number.data<std::int32_t>() = static_cast<std::int32_t>(*updates.data<double>());
}

void adam_corrections(Tensor& corrections, Tensor& power1, Tensor& power2, double beta1,
                      double beta2) {
  update::adam_corrections(corrections.data<float>(), *power1.data<double>(),
                           *power2.data<double>(), beta1, beta2);
}

void adam(Tensor& w, Tensor& m, Tensor& v, const Tensor& gradient, const AdamRule& rule,
          const GroupRule& group, const StepScalars* step, const Tensor& corrections) {
  float *pw = w.data<float>(), *pm = m.data<float>(), *pv = v.data<float>();
  const float* c = corrections.data<float>();
  const update::Adam element(rule, {group, *step}, c[0], c[1]);
  NIBBLE_FLOAT_SWITCH(gradient.dtype(), "adam", G, const G* pg = gradient.data<G>();
                      parallel_for(w.numel(), kGrain, [&](std::int64_t b, std::int64_t e) {
                        adam_span(pw + b, pm + b, pv + b, pg + b, e - b, element);
                      }));
}

void sgd(Tensor& w, Tensor& m, const Tensor& gradient, const SgdRule& rule, const GroupRule& group,
         const StepScalars* step) {
  float *pw = w.data<float>(), *pm = m.defined() ? m.data<float>() : nullptr;
  const update::Sgd element{rule, {group, *step}};
  NIBBLE_FLOAT_SWITCH(gradient.dtype(), "sgd", G, const G* pg = gradient.data<G>();
                      parallel_for(w.numel(), kGrain, [&](std::int64_t b, std::int64_t e) {
                        sgd_span(pw + b, pm ? pm + b : nullptr, pg + b, e - b, element);
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
