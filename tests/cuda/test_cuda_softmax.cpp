// Softmax and log-softmax, forward and backward. The sums of a row have another order than the
// CPU's. f32: both exponentials are the same function, sums of n terms differ by a few ulp. bf16:
// results are rounded to 2^-9 of themselves, and may round to either side.
#include "tests/cuda/number_checks.h"
#include "tests/tensor_testing.h"

using namespace nibble;
using namespace nibble::testing;

namespace {

constexpr DType kBoth[] = {DType::F32, DType::BF16};

// Around every tile of rows.cuh, aligned or not, and rows that are read again.
const std::vector<Shape> kShapes{{1, 1},    {5, 3},     {7, 33},    {3, 127},   {100, 768},
                                 {9, 769},  {9, 1023},  {17, 1024}, {5, 1600},  {3, 2047},
                                 {4, 4096}, {3, 4097},  {2, 8192},  {2, 8193},  {2, 50257},
                                 {0, 5},    {2000, 10}, {2, 2, 3},  {1, 20000}, {3, 512}};

double bound(DType dtype) { return dtype == DType::F32 ? 2e-6 : 1.0 / 128; }

using Unary = Tensor (*)(const Tensor&);
using Binary = Tensor (*)(const Tensor&, const Tensor&);

void check_forward(const std::string& name, Unary f, double scale) {
  for (const DType dtype : kBoth)
    for (const Shape& shape : kShapes)
      in_lockstep(
          {uniform(shape, dtype, -9, 9)},
          [&](const std::vector<Tensor>& in) { return std::vector{f(in[0])}; },
          [&](const Tensor& cpu, const Tensor& gpu) {
            check_near(cpu, gpu, bound(dtype), scale, fmt::format("{} {} {}", name, shape, dtype));
          });
}

// A row's sum, Σ dy·y or Σ dy, is off by a few 2^-24 of the sum of absolute values, and dy − Σ dy·y
// cancels: f32 errors are in units of those, at least 1.
void check_backward(const std::string& name, Unary forward, Binary f, bool log) {
  for (const DType dtype : kBoth)
    for (const Shape& shape : kShapes) {
      const double scale = log                   ? std::sqrt(static_cast<double>(shape[-1])) + 1
                           : dtype == DType::F32 ? 1
                                                 : 1e-3;
      in_lockstep(
          {uniform(shape, dtype), forward(uniform(shape, dtype, -9, 9, 2))},
          [&](const std::vector<Tensor>& in) { return std::vector{f(in[0], in[1])}; },
          [&](const Tensor& cpu, const Tensor& gpu) {
            check_near(cpu, gpu, bound(dtype), scale, fmt::format("{} {} {}", name, shape, dtype));
          });
    }
}

}  // namespace

GPU_TEST("cuda softmax: probabilities agree with the CPU's") {
  check_forward("softmax", ops::softmax, 1e-3);
}
GPU_TEST("cuda softmax: log-probabilities agree with the CPU's") {
  check_forward("log_softmax", ops::log_softmax, 1);
}
GPU_TEST("cuda softmax: gradients agree with the CPU's") {
  check_backward("softmax_backward", ops::softmax, ops::softmax_backward, false);
  check_backward("log_softmax_backward", ops::log_softmax, ops::log_softmax_backward, true);
}

GPU_TEST("cuda softmax: masked, huge and not-a-number rows are as the CPU's") {
  for (const DType dtype : kBoth)
    for (const std::int64_t n : {40, 1000, 9001}) {
      std::vector<float> v(static_cast<std::size_t>(6 * n), 0.5f);
      for (std::int64_t i = 0; i < n; ++i) {
        const auto at = [&](std::int64_t row) -> float& {
          return v[static_cast<std::size_t>(row * n + i)];
        };
        if (i % 3) at(0) = -INFINITY;   // masked in part
        at(1) = -INFINITY;              // wholly: NaN, as 0 / 0
        at(2) = i == 7 ? NAN : 1.0f;    // one NaN spreads over its row
        at(3) = i == 5 ? 3e38f : 1.0f;  // the maximum is taken off first
        at(4) = i == 9 ? INFINITY : 0;
      }
      for (const Unary f : {Unary{ops::softmax}, Unary{ops::log_softmax}})
        in_lockstep(
            {Tensor::from(v, {6, n}).to(dtype)},
            [&](const std::vector<Tensor>& in) { return std::vector{f(in[0])}; },
            [&](const Tensor& cpu, const Tensor& gpu) {
              check_near(cpu, gpu, bound(dtype), 1e-3, fmt::format("{} {}", n, dtype));
            });
    }
}

GPU_TEST("cuda softmax: bits depend neither on addresses nor on the run") {
  for (const DType dtype : kBoth)
    for (const Shape& shape : {Shape{33, 768}, {5, 1001}, {3, 9000}}) {
      const std::int64_t n = shape.numel();
      const Tensor x = uniform({n + 8}, dtype).to(kGpu);
      const Tensor aligned = x.slice(0, 1, n + 1).clone().view(shape);
      const Tensor shifted = x.slice(0, 1, n + 1).view(shape);
      const Tensor expected = ops::softmax(aligned).to(kCpu);
      check_bits(expected, ops::softmax(aligned), "again");
      check_bits(expected, ops::softmax(shifted), "off 16 bytes");
      // Into a slice of a larger buffer, whose rest must stay.
      Tensor buffer = Tensor::full({n + 8}, 7, dtype, kGpu);
      Tensor y = buffer.slice(0, 3, n + 3).view(shape);
      cuda::softmax(y, aligned);
      check_bits(expected, y.clone(), "written off 16 bytes");
      for (const Tensor& rest : {buffer.slice(0, 0, 3), buffer.slice(0, n + 3, n + 8)})
        for (const float v : rest.clone().to(kCpu).to_vector()) CHECK(v == 7);
    }
}
