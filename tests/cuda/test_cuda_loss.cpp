// Cross-entropy of rows. Sums have another order than the CPU's, and for bf16 logits another
// exponential: a few 1e-7 of the sum, 1e-5 of the largest logits' differences. The gradient is
// elementwise: f32 is bit-equal given the same lse, bf16 may round to either side. On the GPU loss
// and gradient at once have the bits of both apart.
#include "tests/cuda/number_checks.h"
#include "tests/tensor_testing.h"

using namespace nibble;
using namespace nibble::testing;

namespace {

constexpr DType kBoth[] = {DType::F32, DType::BF16};

// Every fifth row is ignored.
Tensor make_targets(std::int64_t rows, std::int64_t classes) {
  std::vector<std::int32_t> t(static_cast<std::size_t>(rows));
  for (std::size_t i = 0; i < t.size(); ++i)
    t[i] = i % 5 == 2
               ? -1
               : static_cast<std::int32_t>((i * 7919 + 3) % static_cast<std::size_t>(classes));
  return Tensor::from(t, {rows});
}

struct Case {
  std::int64_t rows, classes;
};
// Aligned and odd rows, of every tile, rows that fill shared memory and longer ones.
const Case kCases[] = {{1, 1},     {7, 10},    {33, 101},  {40, 1000}, {9, 1024},  {9, 1025},
                       {9, 1032},  {20, 4099}, {5, 16384}, {5, 16392}, {6, 50257}, {6, 50304},
                       {300, 257}, {3, 65536}, {3, 65544}, {4, 200000}};

}  // namespace

GPU_TEST("cuda loss: losses and log-sum-exps agree with the CPU's") {
  for (const DType dtype : kBoth)
    for (const Case& c : kCases) {
      const Tensor logits = uniform({c.rows, c.classes}, dtype, -9, 9);
      in_lockstep(
          {logits, make_targets(c.rows, c.classes)},
          [](const std::vector<Tensor>& in) {
            const ops::CrossEntropy y = ops::cross_entropy(in[0], in[1]);
            return std::vector{y.losses, y.lse};
          },
          [&](const Tensor& cpu, const Tensor& gpu) {
            check_near(cpu, gpu, 1e-6, 5, fmt::format("{} × {} {}", c.rows, c.classes, dtype));
          });
    }
}

GPU_TEST("cuda loss: masked classes, huge logits and NaN are as the CPU's") {
  for (const DType dtype : kBoth)
    for (const std::int64_t n : {64, 1001, 2048, 50304}) {
      std::vector<float> v(static_cast<std::size_t>(6 * n), 0.25f);
      for (std::int64_t i = 0; i < n; ++i) {
        const auto at = [&](std::int64_t row) -> float& {
          return v[static_cast<std::size_t>(row * n + i)];
        };
        if (i < n / 2) at(0) = -INFINITY;
        at(1) = -INFINITY;  // nothing anywhere
        at(2) = 1e30f;
        at(3) = i < n / 2 ? -INFINITY : -1e30f;
        if (i == n / 2 + 3) at(4) = NAN;
        if (i == 5) at(5) = INFINITY;
      }
      const Tensor logits = Tensor::from(v, {6, n}).to(dtype);
      const Tensor targets = Tensor::full({6}, static_cast<double>(n - 1), DType::I32);
      in_lockstep(
          {logits, targets},
          [](const std::vector<Tensor>& in) {
            return std::vector{ops::cross_entropy(in[0], in[1]).lse};
          },
          [&](const Tensor& cpu, const Tensor& gpu) {
            check_near(cpu, gpu, 4e-6, 0, fmt::format("{} {}", n, dtype));
          });
    }
}

GPU_TEST("cuda loss: the gradient agrees with the CPU's, apart or in place") {
  for (const DType dtype : kBoth)
    for (const Case& c : kCases) {
      const Tensor logits = uniform({c.rows, c.classes}, dtype, -9, 9);
      const Tensor targets = make_targets(c.rows, c.classes);
      const Tensor lse = ops::cross_entropy(logits, targets).lse;
      for (const bool in_place : {false, true})
        for (const std::int64_t skip : {0, 1}) {  // off 16 bytes, in a buffer whose rest stays
          if (!in_sample()) continue;
          const std::int64_t n = logits.numel();
          in_lockstep(
              {logits, targets, lse, Tensor::full({1}, 0.3)},
              [&](const std::vector<Tensor>& in) {
                Tensor buffer = Tensor::full({n + 9}, 7, dtype, in[0].device());
                Tensor d = buffer.slice(0, skip, skip + n).view(logits.shape());
                if (in_place) d.copy_from(in[0]);
                ops::cross_entropy_backward(d, in_place ? d : in[0], in[1], in[2], in[3]);
                return std::vector{buffer};
              },
              [&](const Tensor& cpu, const Tensor& gpu) {
                const std::string what = fmt::format("{} × {} {}", c.rows, c.classes, dtype);
                if (dtype == DType::F32)
                  check_numbers(cpu, gpu, what);
                else
                  check_near(cpu, gpu, 1.0 / 128, 1e-6, what);
              });
        }
    }
}

GPU_TEST("cuda loss: gradients of far logits, by any sign of the scale") {
  for (const DType dtype : kBoth)
    for (const double center : {-2500.0, -1500.0, 60.0, 1500.0, 3000.0, 1e6})
      for (const double scale : {-2.0, 0.0, 1.0 / 32768}) {
        Tensor wide = uniform({3, 1000}, DType::F32, center - 40, center + 40);
        if (center == 1e6) wide.data<float>()[7] = 1e30f;
        const Tensor logits = wide.to(dtype), targets = make_targets(3, 1000);
        const Tensor lse = ops::cross_entropy(logits, targets).lse;
        in_lockstep(
            {logits, targets, lse, Tensor::full({1}, scale)},
            [&](const std::vector<Tensor>& in) {
              Tensor d = Tensor::empty(in[0].shape(), dtype, in[0].device());
              ops::cross_entropy_backward(d, in[0], in[1], in[2], in[3]);
              return std::vector{d};
            },
            [&](const Tensor& cpu, const Tensor& gpu) {
              check_near(cpu, gpu, 1.0 / 128, 1e-6 * std::fabs(scale),
                         fmt::format("{} around {}, scale {}", dtype, center, scale));
            });
      }
}

GPU_TEST("cuda loss: loss and gradient at once have the bits of both apart") {
  for (const DType dtype : kBoth)
    for (const Case& c : kCases)
      for (const std::int64_t skip : {0, 1}) {
        const std::int64_t n = c.rows * c.classes;
        Tensor buffer = uniform({n + 9}, dtype, -9, 9).to(kGpu);
        Tensor logits = buffer.slice(0, skip, skip + n).view({c.rows, c.classes});
        if (n > 3000) logits.view({n}).slice(0, 17, 18).fill(NAN);
        const Tensor before = buffer.to(kCpu).clone();
        const Tensor targets = make_targets(c.rows, c.classes).to(kGpu);
        const Tensor scale = Tensor::full({1}, 0.3, DType::F32, kGpu);
        const ops::CrossEntropy apart = ops::cross_entropy(logits, targets);
        Tensor expected = Tensor::empty(logits.shape(), dtype, kGpu);
        ops::cross_entropy_backward(expected, logits, targets, apart.lse, scale);
        const Tensor losses = ops::cross_entropy_gradient(logits, targets, scale);
        const std::string what = fmt::format("{} × {} {} + {}", c.rows, c.classes, dtype, skip);
        check_numbers(apart.losses.to(kCpu), losses, what);
        check_numbers(expected.to(kCpu), logits, what);
        Tensor around = buffer.to(kCpu).clone();
        around.slice(0, skip, skip + n).copy_from(before.slice(0, skip, skip + n));
        check_numbers(before, around, what + ": around");
      }
}

GPU_TEST("cuda loss: bits depend neither on addresses nor on the run") {
  for (const DType dtype : kBoth)
    for (const std::int64_t n : {1000, 4096, 50257, 50304}) {
      const std::int64_t rows = 11;
      const Tensor flat = uniform({rows * n + 1}, dtype, -9, 9).to(kGpu);
      const Tensor shifted = flat.slice(0, 1, rows * n + 1).view({rows, n});
      const Tensor aligned = shifted.clone(), targets = make_targets(rows, n).to(kGpu);
      const auto lse = [&](const Tensor& x) { return ops::cross_entropy(x, targets).lse; };
      check_bits(lse(aligned).to(kCpu), lse(aligned), "again");
      check_bits(lse(aligned).to(kCpu), lse(shifted), "off 16 bytes");
    }
}

GPU_TEST("cuda loss: ignored rows have no gradient, even of infinite logits") {
  for (const std::int64_t n : {40, 50304}) {
    const Tensor logits = Tensor::full({3, n}, INFINITY, DType::BF16, kGpu);
    const Tensor targets = Tensor::full({3}, -1, DType::I32, kGpu);
    const Tensor scale = Tensor::full({1}, 1, DType::F32, kGpu);
    const Tensor lse = Tensor::full({3}, INFINITY, DType::F32, kGpu);
    Tensor d = Tensor::full({3, n}, 5, DType::BF16, kGpu), both = logits.clone();
    ops::cross_entropy_backward(d, logits, targets, lse, scale);
    check_bits(Tensor::zeros({3, n}, DType::BF16), d);
    check_bits(Tensor::zeros({3}), ops::cross_entropy_gradient(both, targets, scale));
    check_bits(Tensor::zeros({3, n}, DType::BF16), both);
  }
}
