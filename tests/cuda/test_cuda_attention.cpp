// Attention on a GPU against the CPU. Bounds, of |x| + 1 for inputs below 1.5: f32 differs in the
// order of sums of up to 4096 terms; bf16 kernels round probabilities and score gradients to bf16
// for the second products (2^-9 each, partly cancelling in sums), and results once more.
#include <functional>
#include <limits>

#include "tensor/cuda/attention_routes.h"
#include "tests/cuda/lockstep.h"

using namespace nibble;
using namespace nibble::testing;

namespace {

constexpr double kSentinel = 9;

double bound(DType dtype) { return dtype == DType::F32 ? 1e-5 : 1.0 / 64; }

using Tensors = std::vector<Tensor>;

struct Case {
  std::int64_t b, t, s, h, hkv, d;
  bool causal = true;
  double dropout = 0, scale = 0;

  AttentionOptions options() const {
    return {.scale = scale, .causal = causal, .dropout = dropout, .key = {5, 6, nullptr}};
  }
  std::string name(DType dtype) const {
    return fmt::format("{} [{}, {}/{}, {}/{}, {}] causal {} dropout {} scale {}", dtype, b, t, s, h,
                       hkv, d, causal, dropout, scale);
  }
};

struct Route {
  decltype(&cuda::attention) forward;
  decltype(&cuda::attention_backward) backward;
};
constexpr Route kCpuRoute{cpu::attention, cpu::attention_backward};
constexpr Route kOwn{cuda::own_attention, cuda::own_attention_backward};
constexpr Route kChosen{cuda::attention, cuda::attention_backward};

// A view of `shape` inside a larger tensor of sentinels, and that tensor.
struct Framed {
  Tensor whole, inner;

  // `pad` more elements to a head: 8 keeps rows aligned to 16 bytes, 3 does not.
  Framed(const Shape& shape, std::int64_t pad, DType dtype, Device device)
      : whole(Tensor::full({shape[0], shape[1] + 2, shape[2] + 1, shape[3] + pad}, kSentinel, dtype,
                           device)),
        inner(whole.slice(1, 1, shape[1] + 1)
                  .slice(2, 1, shape[2] + 1)
                  .slice(3, pad == 8 ? 8 : 1, shape[3] + (pad == 8 ? 8 : 1))) {}
  // Whether only the view was written.
  std::string damage() const {
    Tensor back = whole.to(kCpu).clone();
    const std::int64_t n = inner.size(1), h = inner.size(2), d = inner.size(3);
    const std::int64_t first = whole.size(3) - d == 8 ? 8 : 1;
    Tensor view = back.slice(1, 1, n + 1).slice(2, 1, h + 1).slice(3, first, first + d);
    view.copy_from(Tensor::full(view.shape(), kSentinel, view.dtype()));
    return bit_difference(Tensor::full(back.shape(), kSentinel, back.dtype()), back);
  }
};

// {out, lse, dq, dk, dv} of in = {q, k, v, dout}.
Tensors run(const Tensors& in, const AttentionOptions& o, const Route& gpu_route,
            std::int64_t pad = 8) {
  const Tensor &q = in[0], &k = in[1], &v = in[2], &dout = in[3];
  const Device device = q.device();
  const Route& route = device.is_cpu() ? kCpuRoute : gpu_route;
  Framed out(q.shape(), pad, q.dtype(), device), dq(q.shape(), pad, q.dtype(), device);
  Framed dk(k.shape(), pad, q.dtype(), device), dv(k.shape(), pad, q.dtype(), device);
  Tensor rows =
      Tensor::full({q.size(0) * q.size(2) * q.size(1) + 64}, kSentinel, DType::F32, device);
  Tensor lse = rows.slice(0, 0, rows.numel() - 64).view({q.size(0), q.size(2), q.size(1)});
  const std::uint64_t copies = cuda::copies_to_host();
  route.forward(out.inner, lse, q, k, v, o);
  route.backward(dq.inner, dk.inner, dv.inner, dout, q, k, v, out.inner, lse, o);
  CHECK(cuda::copies_to_host() == copies);
  if (device.is_cuda()) {
    for (const Framed* x : {&out, &dq, &dk, &dv}) CHECK(x->damage() == "");
    for (const float x : rows.slice(0, rows.numel() - 64, rows.numel()).to(kCpu).to_vector())
      CHECK(x == kSentinel);
  }
  return {out.inner, lse, dq.inner, dk.inner, dv.inner};
}

Tensors inputs(const Case& c, DType dtype) {
  const auto make = [&](std::int64_t rows, std::int64_t heads, std::uint32_t site) {
    return uniform({c.b, rows, heads, c.d}, dtype, -1.5, 1.5, site);
  };
  return {make(c.t, c.h, 1), make(c.s, c.hkv, 2), make(c.s, c.hkv, 3), make(c.t, c.h, 4)};
}

// `view` cuts q, k, v and dout out of `in`, on either device: moving a view would make it compact.
void check_case(
    const Case& c, DType dtype, const Route& route, const Tensors& in,
    const std::function<Tensors(const Tensors&)>& view = [](const Tensors& x) { return x; },
    std::int64_t pad = 8) {
  if (!in_sample()) return;
  const char* const names[] = {"out", "lse", "dq", "dk", "dv"};
  const Tensors cpu = run(view(in), c.options(), kCpuRoute, pad);
  const Tensors gpu = run(view(on_gpu(in)), c.options(), route, pad);
  for (std::size_t i = 0; i < cpu.size(); ++i)
    check_near(cpu[i].clone(), gpu[i].to(kCpu), i == 1 ? 1e-5 : bound(dtype), 1,
               fmt::format("{} of {}", names[i], c.name(dtype)));
}

// Probabilities of equal scores, one a column: P = M / (keys seen). dV has them transposed.
Tensors uncovered(const Tensors& in, const AttentionOptions& o) {
  const Tensors r = run(in, o, kOwn);
  return {r[0], r[4]};
}
Tensor identity(std::int64_t rows, std::int64_t columns, DType dtype) {
  Tensor x = Tensor::zeros({rows, columns});
  for (std::int64_t i = 0; i < std::min(rows, columns); ++i) x.data<float>()[i * columns + i] = 1;
  return x.view({1, rows, 1, columns}).to(dtype);
}

const std::vector<Case> kCases{
    {1, 64, 64, 1, 1, 64, false},
    {2, 200, 200, 3, 3, 64},
    {1, 257, 257, 2, 1, 64, true, 0.1},
    {1, 128, 320, 2, 2, 64, true, 0.1},
    {2, 33, 77, 2, 2, 16, true, 0.25},
    {1, 77, 33, 2, 1, 32, true, 0.25, -0.3},  // 44 queries see no key
    {1, 77, 33, 2, 1, 32, true, 0, -0.3},
    {1, 130, 40, 1, 1, 128, true, 0, -0.3},
    {1, 190, 190, 4, 2, 32, false, 0, 0.4},
    {1, 70, 100, 1, 1, 80, true, 0.1},
    {2, 257, 257, 4, 2, 64},
    {1, 129, 449, 2, 2, 64},
    {1, 449, 129, 2, 1, 64, false},
    {1, 1, 700, 4, 2, 64, false},
    {2, 333, 333, 2, 1, 80},
    {1, 150, 150, 2, 2, 128},
    {2, 385, 385, 2, 1, 128},
    {1, 65, 415, 2, 2, 128},
    {1, 415, 65, 2, 1, 120, false},
    {1, 1, 300, 2, 1, 128},
    {1, 65, 67, 4, 2, 128, false, 0.2},
    {1, 300, 300, 2, 1, 128, true, 0.1},
    {1, 70, 90, 1, 1, 256, true, 0.1},
    {1, 90, 90, 2, 2, 200},
    {1, 20, 30, 2, 1, 17, true, 0.3},
    {3, 5, 3, 1, 1, 1},
    {1, 1, 300, 2, 1, 64},
    {1, 1, 1, 1, 1, 8},
    {1, 5, 0, 1, 1, 64},
    {0, 5, 5, 2, 1, 64},
};

}  // namespace

GPU_TEST("cuda attention: own kernels agree with the CPU's, forward and backward") {
  for (const DType dtype : {DType::F32, DType::BF16})
    for (const Case& c : kCases) check_case(c, dtype, kOwn, inputs(c, dtype));
}

GPU_TEST("cuda attention: the chosen kernels agree with the CPU's") {
  for (const DType dtype : {DType::F32, DType::BF16})
    for (const Case& c : {Case{2, 128, 128, 2, 2, 64}, Case{2, 256, 256, 4, 2, 64},
                          Case{1, 384, 384, 2, 2, 128, false}, Case{1, 128, 256, 2, 1, 32, false},
                          Case{1, 128, 128, 2, 2, 80}, Case{2, 128, 128, 2, 2, 64, true, 0.1},
                          Case{1, 100, 100, 2, 2, 64}, Case{1, 256, 256, 2, 2, 64, true, 0, 0.4}})
      check_case(c, dtype, kChosen, inputs(c, dtype));
}

GPU_TEST("cuda attention: packed, sliced and unaligned operands") {
  for (const DType dtype : {DType::F32, DType::BF16})
    for (const auto& [d, dropout] :
         {std::pair<std::int64_t, double>{64, 0.1}, {64, 0}, {17, 0.1}, {17, 0}, {100, 0}}) {
      const Case c{2, 130, 130, 3, 3, d, true, dropout};
      const auto make = [&](const Shape& shape, std::uint32_t site) {
        return uniform(shape, dtype, -1.5, 1.5, site);
      };
      const Tensors packed{make({c.b, c.t, 3, c.h, d}, 1), make({c.b, c.t, c.h, d}, 4)};
      const auto unpack = [](const Tensors& x) {
        return Tensors{x[0].select(2, 0), x[0].select(2, 1), x[0].select(2, 2), x[1]};
      };
      Tensors wide;  // of which the views' rows start at odd addresses
      for (std::uint32_t site = 1; site <= 4; ++site)
        wide.push_back(make({c.b, c.t, c.h + 1, d + 3}, site));
      const auto cut = [&](const Tensors& x) {
        Tensors y;
        for (const Tensor& t : x) y.push_back(t.slice(2, 1, c.h + 1).slice(3, 1, d + 1));
        return y;
      };
      for (const std::int64_t pad : {8, 3}) {
        check_case(c, dtype, kOwn, packed, unpack, pad);
        check_case(c, dtype, kOwn, wide, cut, pad);
      }
    }
}

GPU_TEST("cuda attention: the same probabilities are dropped as on the CPU") {
  for (const DType dtype : {DType::F32, DType::BF16})
    for (const std::int64_t n : {std::int64_t{64}, std::int64_t{61}, std::int64_t{128},
                                 std::int64_t{100}, std::int64_t{250}})
      for (const double p : {0.1, 0.5}) {
        if (!in_sample()) continue;
        const Tensor nothing = Tensor::zeros({1, n, 1, n}, dtype);
        AttentionOptions o{.scale = 0, .causal = false, .dropout = p, .key = {9, 3, nullptr}};
        const Tensors in{nothing, nothing, identity(n, n, dtype), identity(n, n, dtype)};
        const Tensors on_cpu = uncovered(in, o), there = uncovered(on_gpu(in), o);
        for (std::size_t part = 0; part < on_cpu.size(); ++part) {
          const std::vector<float> e = on_cpu[part].to_vector(),
                                   g = there[part].to(kCpu).to_vector();
          std::size_t wrong = 0, dropped = 0;
          for (std::size_t i = 0; i < e.size(); ++i) {
            wrong += (e[i] == 0) != (g[i] == 0);
            dropped += g[i] == 0;
          }
          CHECK(wrong == 0);
          CHECK(dropped > 0);
        }
      }
}

GPU_TEST("cuda attention: two runs give the same bits") {
  for (const DType dtype : {DType::F32, DType::BF16})
    for (const Case& c : {Case{4, 512, 512, 4, 2, 64}, Case{2, 500, 500, 4, 2, 128},
                          Case{2, 256, 256, 4, 4, 128, true, 0.1}})
      for (const Route& route : {kOwn, kChosen}) {
        if (!in_sample()) continue;
        const Tensors device = on_gpu(inputs(c, dtype));
        const Tensors first = run(device, c.options(), route);
        for (int again = 0; again < 3; ++again) {
          const Tensors next = run(device, c.options(), route);
          for (std::size_t i = 0; i < first.size(); ++i)
            check_bits(first[i].to(kCpu).clone(), next[i].clone(), c.name(dtype));
        }
      }
}

GPU_TEST("cuda attention: long sequences") {
  for (const DType dtype : {DType::F32, DType::BF16}) {
    for (const std::int64_t d : {64, 128}) {
      const Case c{1, d == 64 ? 4096 : 2048, d == 64 ? 4096 : 2048, 1, 1, d};
      check_case(c, dtype, kOwn, inputs(c, dtype));
    }
  }
}

GPU_TEST("cuda attention: large scores do not overflow, and NaN stays in its rows") {
  for (const DType dtype : {DType::F32, DType::BF16}) {
    const Case c{1, 70, 70, 1, 1, 64};
    Tensors in = inputs(c, dtype);
    in[0] = Tensor::full(in[0].shape(), 1e4, dtype);
    const Tensors expected = run(in, c.options(), kOwn);
    const Tensors large = run(on_gpu(in), c.options(), kOwn);
    // Scores near 1e4 have steps of 1e-3, which exponentials pass on.
    check_near(expected[0].clone(), large[0], dtype == DType::F32 ? 1e-2 : 1.0 / 32, 1);
    for (const Tensor& x : large)
      for (const float value : x.to(kCpu).to_vector()) CHECK(std::isfinite(value));
    in = inputs(c, dtype);
    Tensor row = in[0].select(1, 40);
    row.copy_from(Tensor::full(row.shape(), std::numeric_limits<double>::quiet_NaN(), row.dtype()));
    const Tensors r = run(on_gpu(in), c.options(), kOwn);
    for (const int result : {0, 2}) {  // out and dq, by row of queries
      const std::vector<float> x = r[static_cast<std::size_t>(result)].to(kCpu).to_vector();
      for (std::size_t i = 0; i < x.size(); ++i) CHECK(std::isnan(x[i]) == (i / 64 == 40));
    }
  }
}

GPU_TEST("cuda attention: an expanded key head equals copies of it") {
  for (const DType dtype : {DType::F32, DType::BF16})
    for (const double dropout : {0.0, 0.1}) {
      const Case c{2, 96, 96, 4, 4, 64, true, dropout};
      Tensors in = inputs(c, dtype);
      in[1] = in[1].slice(2, 0, 1).expand({2, 96, 4, 64});
      in[2] = in[2].slice(2, 0, 1).expand({2, 96, 4, 64});
      // Copied whole, then expanded again where it lives: strides of 0 reach the kernel.
      const Tensor k = in[1].slice(2, 0, 1).clone().to(kGpu).expand({2, 96, 4, 64});
      const Tensors a =
          run({in[0].to(kGpu), k, in[2].clone().to(kGpu), in[3].to(kGpu)}, c.options(), kOwn);
      const Tensors b =
          run({in[0].to(kGpu), in[1].clone().to(kGpu), in[2].clone().to(kGpu), in[3].to(kGpu)},
              c.options(), kOwn);
      for (std::size_t i = 0; i < a.size(); ++i)
        check_bits(a[i].to(kCpu).clone(), b[i].clone(), c.name(dtype));
    }
}

GPU_TEST("cuda attention: what it cannot do, it says") {
  const Tensor wide = Tensor::zeros({1, 4, 1, 264}, DType::F32, kGpu);
  CHECK_THROWS_WITH_AS(ops::attention(wide, wide, wide, {}),
                       "attention: got head width 264 on a GPU, expected at most 256", Error);
  const Tensor f64 = Tensor::zeros({1, 4, 1, 8}, DType::F64).to(kGpu);
  CHECK_THROWS_AS(ops::attention(f64, f64, f64, {}), Error);
}
