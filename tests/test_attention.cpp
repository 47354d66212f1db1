#include <doctest/doctest.h>

#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "kernel_checks.h"
#include "tensor/attention_route.h"
#include "tensor/ops.h"

using namespace nibble;
using namespace nibble::testing;

namespace {

struct Inputs {
  Tensor q, k, v;
};

// [B, T, H, D] and [B, S, Hkv, D] in a layout that is not contiguous: cut out of wider tensors.
Inputs make_inputs(std::int64_t b, std::int64_t t, std::int64_t s, std::int64_t h, std::int64_t hkv,
                   std::int64_t d, DType dtype) {
  const auto cut = [&](std::int64_t rows, std::int64_t heads, std::uint64_t seed) {
    return random({b, rows, heads + 1, d + 3}, seed, dtype)
        .slice(2, 1, heads + 1)
        .slice(3, 2, d + 2);
  };
  return {cut(t, h, 1), cut(s, hkv, 2), cut(s, hkv, 3)};
}

// Factor of a probability by the definition in kernels.h: one draw at a time.
double keep(const AttentionOptions& o, std::int64_t element) {
  if (o.dropout == 0) return 1;
  const Draws16 draws(o.key, o.key.step_value());
  const auto threshold = static_cast<std::uint32_t>(std::lround(o.dropout * 65536));
  return draws(static_cast<std::uint64_t>(element)) >= threshold ? 1 / (1 - o.dropout) : 0;
}

struct Reference {
  std::vector<double> out, lse, p;  // p: after dropout
};

Reference reference(const Inputs& x, const AttentionOptions& o) {
  const std::int64_t b = x.q.size(0), t = x.q.size(1), h = x.q.size(2), d = x.q.size(3);
  const std::int64_t s = x.k.size(1), hkv = x.k.size(2);
  const std::vector<double> q = x.q.to_vector<double>(), k = x.k.to_vector<double>(),
                            v = x.v.to_vector<double>();
  const double scale = o.scale != 0 ? o.scale : 1 / std::sqrt(static_cast<double>(d));
  Reference r{std::vector<double>(at(b * t * h * d)), std::vector<double>(at(b * h * t)),
              std::vector<double>(at(b * h * t * s))};
  for (std::int64_t bi = 0; bi < b; ++bi)
    for (std::int64_t hi = 0; hi < h; ++hi)
      for (std::int64_t ti = 0; ti < t; ++ti) {
        const std::int64_t keys = o.causal ? std::max<std::int64_t>(0, ti + s - t + 1) : s;
        const std::int64_t hk = hi / (h / hkv), row = (bi * h + hi) * t + ti;
        std::vector<double> e(at(keys));
        double sum = 0;
        for (std::int64_t si = 0; si < keys; ++si) {
          double dot = 0;
          for (std::int64_t c = 0; c < d; ++c)
            dot +=
                q[at(((bi * t + ti) * h + hi) * d + c)] * k[at(((bi * s + si) * hkv + hk) * d + c)];
          sum += e[at(si)] = std::exp(dot * scale);
        }
        r.lse[at(row)] = std::log(sum);
        for (std::int64_t si = 0; si < keys; ++si) {
          const double p = e[at(si)] / sum * keep(o, row * s + si);
          r.p[at(row * s + si)] = p;
          for (std::int64_t c = 0; c < d; ++c)
            r.out[at(((bi * t + ti) * h + hi) * d + c)] +=
                p * v[at(((bi * s + si) * hkv + hk) * d + c)];
        }
      }
  return r;
}

struct Gradients {
  Tensor dq, dk, dv;
};

Gradients gradients(const Inputs& x, const Tensor& dout, const AttentionOptions& o) {
  const ops::AttentionResult r = ops::attention(x.q, x.k, x.v, o);
  Gradients g{Tensor::full(x.q.shape(), 9, x.q.dtype()), Tensor::full(x.k.shape(), 9, x.q.dtype()),
              Tensor::full(x.v.shape(), 9, x.q.dtype())};
  cpu::attention_backward(g.dq, g.dk, g.dv, dout, x.q, x.k, x.v, r.out, r.lse, o);
  return g;
}

double objective(const Inputs& x, const std::vector<double>& dout, const AttentionOptions& o) {
  const std::vector<double> out = ops::attention(x.q, x.k, x.v, o).out.to_vector<double>();
  double total = 0;
  for (std::size_t i = 0; i < out.size(); ++i) total += out[i] * dout[i];
  return total;
}

void check_finite_differences(Inputs x, const AttentionOptions& o) {
  const Tensor dout = random(x.q.shape(), 7, DType::F64);
  const std::vector<double> weights = dout.to_vector<double>();
  const Gradients g = gradients(x, dout, o);
  const auto check = [&](Tensor& input, const Tensor& gradient) {
    input = input.clone();
    const std::vector<double> analytic = gradient.to_vector<double>();
    double* values = input.data<double>();
    for (std::int64_t i = 0; i < input.numel(); i += 7) {  // every seventh is enough, and quick
      constexpr double kStep = 1e-5;
      const double kept = values[i];
      values[i] = kept + kStep;
      const double above = objective(x, weights, o);
      values[i] = kept - kStep;
      const double below = objective(x, weights, o);
      values[i] = kept;
      CHECK(std::abs((above - below) / (2 * kStep) - analytic[at(i)]) < 1e-8);
    }
  };
  check(x.q, g.dq);
  check(x.k, g.dk);
  check(x.v, g.dv);
}

const AttentionOptions kDropped{.scale = 0, .causal = true, .dropout = 0.3, .key = {5, 6, nullptr}};

}  // namespace

TEST_CASE("attention: matches a naive softmax, with odd sizes, GQA, T != S and strided views") {
  struct Sizes {
    std::int64_t b, t, s, h, hkv, d;
  };
  for (const DType dtype : {DType::F64, DType::F32, DType::BF16})
    for (const Sizes z : {Sizes{1, 1, 1, 1, 1, 1},
                          {2, 5, 5, 3, 3, 8},
                          {1, 70, 70, 2, 1, 17},
                          {2, 65, 130, 4, 2, 16},
                          {1, 3, 200, 2, 2, 5},
                          {1, 90, 20, 1, 1, 8}})
      for (const bool causal : {true, false})
        for (const double p : {0.0, 0.25}) {
          const Inputs x = make_inputs(z.b, z.t, z.s, z.h, z.hkv, z.d, dtype);
          const AttentionOptions o{
              .scale = 0, .causal = causal, .dropout = p, .key = {1, 2, nullptr}};
          const ops::AttentionResult r = ops::attention(x.q, x.k, x.v, o);
          const Reference expected = reference(x, o);
          const double tolerance = dtype == DType::F64 ? 1e-13 : dtype == DType::F32 ? 2e-6 : 1e-2;
          CHECK(max_difference(r.out, expected.out) < tolerance);
          CHECK(max_difference(r.lse, expected.lse) < (dtype == DType::F64 ? 1e-13 : 1e-5));
        }
}

TEST_CASE("attention: queries that see no key give zeros and pass no gradient") {
  const Inputs x = make_inputs(1, 70, 3, 1, 1, 4, DType::F32);  // the first 67 queries see nothing
  const ops::AttentionResult r = ops::attention(x.q, x.k, x.v, {});
  CHECK(max_difference(r.out.slice(1, 0, 67), std::vector<double>(67 * 4, 0.0)) == 0);
  CHECK(r.lse.to_vector<double>()[0] == -std::numeric_limits<double>::infinity());
  const Gradients g = gradients(x, random(x.q.shape(), 4), {});
  CHECK(max_difference(g.dq.slice(1, 0, 67), std::vector<double>(67 * 4, 0.0)) == 0);
  for (const double v : g.dk.to_vector<double>()) CHECK(std::isfinite(v));
}

TEST_CASE("attention: large scores do not overflow") {
  const Tensor q = Tensor::full({1, 4, 1, 2}, 1e4), k = random({1, 4, 1, 2}, 1);
  const ops::AttentionResult r = ops::attention(q, k, k, {});
  for (const double v : r.out.to_vector<double>()) CHECK(std::isfinite(v));
  CHECK(max_difference(r.out.select(1, 0), k.select(1, 0)) == 0);  // query 0 sees key 0 only
}

TEST_CASE("attention: gradients match finite differences, with and without dropout") {
  for (const double p : {0.0, 0.3}) {
    AttentionOptions o = kDropped;
    o.dropout = p;
    check_finite_differences(make_inputs(2, 4, 6, 4, 2, 3, DType::F64), o);
    o.causal = false;
    o.scale = 0.7;
    check_finite_differences(make_inputs(1, 5, 3, 1, 1, 4, DType::F64), o);
    o.causal = true;
    check_finite_differences(make_inputs(1, 66, 70, 1, 1, 2, DType::F64), o);  // several tiles
  }
}

TEST_CASE("attention: f32 and bf16 gradients follow those in f64") {
  for (const DType dtype : {DType::F32, DType::BF16}) {
    const Inputs x = make_inputs(2, 100, 130, 4, 2, 16, dtype);
    const Inputs wide{x.q.to(DType::F64), x.k.to(DType::F64), x.v.to(DType::F64)};
    const Tensor dout = random(x.q.shape(), 8, dtype);
    const Gradients g = gradients(x, dout, kDropped);
    const Gradients expected = gradients(wide, dout.to(DType::F64), kDropped);
    const double tolerance = dtype == DType::F32 ? 1e-5 : 3e-2;
    CHECK(max_difference(g.dq, expected.dq) < tolerance);
    CHECK(max_difference(g.dk, expected.dk) < tolerance);
    CHECK(max_difference(g.dv, expected.dv) < tolerance);
  }
}

TEST_CASE("attention: a packed [B, T, 3, H, D] tensor serves as input and gradient") {
  const Tensor packed = random({2, 67, 3, 2, 8}, 1);
  const Inputs views{packed.select(2, 0), packed.select(2, 1), packed.select(2, 2)};
  const Inputs copies{views.q.clone(), views.k.clone(), views.v.clone()};
  const Tensor dout = random({2, 67, 2, 8}, 2);
  const ops::AttentionResult r = ops::attention(views.q, views.k, views.v, kDropped);
  Tensor d = Tensor::full(packed.shape(), 3);
  Tensor dq = d.select(2, 0), dk = d.select(2, 1), dv = d.select(2, 2);
  cpu::attention_backward(dq, dk, dv, dout, views.q, views.k, views.v, r.out, r.lse, kDropped);
  const Gradients g = gradients(copies, dout, kDropped);
  CHECK(max_difference(dq, g.dq) < 1e-6);
  CHECK(max_difference(dk, g.dk) < 1e-6);
  CHECK(max_difference(dv, g.dv) < 1e-6);
}

TEST_CASE("attention: dropout keeps the expectation and follows the step") {
  const std::int64_t t = 128;
  const Inputs x{Tensor::zeros({2, t, 4, 1}), Tensor::zeros({2, t, 4, 1}),
                 Tensor::full({2, t, 4, 1}, 1)};
  std::uint32_t step = 1;
  const AttentionOptions o{.scale = 0, .causal = false, .dropout = 0.4, .key = {9, 1, &step}};
  const std::vector<double> out = ops::attention(x.q, x.k, x.v, o).out.to_vector<double>();
  double mean = 0;
  for (const double y : out) mean += y / static_cast<double>(out.size());
  CHECK(std::abs(mean - 1) < 0.01);  // 131072 draws: five standard errors are 0.011
  step = 2;
  CHECK(max_difference(ops::attention(x.q, x.k, x.v, o).out, out) > 0.01);
}

TEST_CASE("attention: the bits do not depend on the number of threads") {
  for (const DType dtype : {DType::F32, DType::BF16}) {
    const Inputs x = make_inputs(2, 150, 150, 4, 2, 16, dtype);
    const Tensor dout = random(x.q.shape(), 3, dtype);
    check_thread_independence([&] {
      const ops::AttentionResult r = ops::attention(x.q, x.k, x.v, kDropped);
      const Gradients g = gradients(x, dout, kDropped);
      return std::vector{r.out, r.lse, g.dq, g.dk, g.dv};
    });
  }
}

TEST_CASE("attention: meta tensors give shapes") {
  const Tensor q = Tensor::empty({2, 5, 4, 8}, DType::BF16, kMeta);
  const Tensor k = Tensor::empty({2, 7, 2, 8}, DType::BF16, kMeta);
  const ops::AttentionResult r = ops::attention(q, k, k, {});
  CHECK(r.out.shape() == Shape{2, 5, 4, 8});
  CHECK(r.lse.shape() == Shape{2, 4, 5});
  CHECK(r.lse.dtype() == DType::F32);
}

TEST_CASE("attention: errors name what is wrong") {
  const Tensor q = Tensor::zeros({1, 2, 3, 4}), k = Tensor::zeros({1, 2, 2, 4});
  CHECK_THROWS_WITH_AS(ops::attention(q, k, k, {}),
                       "attention: got 3 query heads for 2 key heads, expected a multiple", Error);
  CHECK_THROWS_WITH_AS(ops::attention(q, q, k, {}),
                       "attention: got q [1, 2, 3, 4], k [1, 2, 3, 4] and v [1, 2, 2, 4], expected "
                       "[B, T, H, D] and twice [B, S, Hkv, D]",
                       Error);
  const Tensor narrow = Tensor::zeros({1, 2, 3, 2});
  CHECK_THROWS_WITH_AS(
      ops::attention(q, narrow, narrow, {}),
      "attention: batch or head width differ: got q [1, 2, 3, 4] and k [1, 2, 3, 2]", Error);
  AttentionOptions o;
  o.dropout = 1;
  CHECK_THROWS_WITH_AS(ops::attention(q, q, q, o), "attention: got dropout 1, expected [0, 1)",
                       Error);
}

TEST_CASE("attention route: a function of the case and the device, in every build") {
  using enum AttentionPass;
  AttentionProblem p;
  p.batch = 32, p.queries = p.keys = 1024, p.heads = p.key_heads = 12, p.width = 64;
  const auto on_gpu = [&](AttentionPass pass) { return attention_route(p, pass, cuda_device()); };
  const bool has_cudnn = cudnn_attention_refusal(p, Forward).empty();
  const std::string absent = "cuDNN attention is not in this build";
  CHECK(attention_route(p, Forward, kCpu).name == "cpu bf16");
  for (const AttentionPass pass : {Forward, Backward}) {
    CHECK(on_gpu(pass).name == "wgmma bf16");
    CHECK(on_gpu(pass).reason == (has_cudnn ? "faster here than cuDNN" : absent));
    CHECK_FALSE(takes_cudnn_attention(p, pass));
  }
  const auto check = [&](const char* name, const std::string& why) {
    CHECK(on_gpu(Forward).name == name);
    CHECK(on_gpu(Forward).reason == (has_cudnn ? why : absent));
  };
  p.queries = p.keys = 4096;
  check(has_cudnn ? "cudnn" : "wgmma bf16", "faster here than the library's own");
  p.queries = p.keys = 1024, p.width = 96;
  check(has_cudnn ? "cudnn" : "wgmma bf16", "faster here than the library's own");
  CHECK(takes_cudnn_attention(p, Forward) == has_cudnn);
  p.dropout = 0.1;
  check("wgmma bf16", "cuDNN draws dropout of its own");
  p.dropout = 0, p.aligned = false;
  check("wgmma bf16", "rows do not start at multiples of 16 bytes");
  p.aligned = true, p.queries = p.keys = 1000;
  check("wgmma bf16", "cuDNN serves multiples of 64 queries and 128 keys");
  p.queries = 1024, p.keys = 2048;
  check("wgmma bf16", "cuDNN's causal mask wants as many keys as queries");
  p.keys = 1024, p.width = 136;
  CHECK(on_gpu(Forward).name == "mma bf16");
  p.dtype = DType::F32;
  CHECK(on_gpu(Forward).name == "fma f32");
}
