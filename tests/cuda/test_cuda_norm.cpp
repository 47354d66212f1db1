// LayerNorm and RMSNorm. Sums over a row and over rows have another order than the CPU's; their
// errors are a few 2^-24 of the sums of absolute values. A bf16 result may round to either side.
#include "tensor/residual.h"
#include "tests/cuda/number_checks.h"
#include "tests/tensor_testing.h"

using namespace nibble;
using namespace nibble::testing;

namespace {

constexpr DType kBoth[] = {DType::F32, DType::BF16};

// Around every tile of rows.cuh, with one, few and many rows a block; and rows that are read again.
const std::vector<Shape> kShapes{{1, 1},      {5, 3},    {70, 33},     {700, 768}, {9, 769},
                                 {300, 1024}, {3, 1023}, {600, 1600},  {5, 2049},  {70, 4096},
                                 {33, 8192},  {6, 8200}, {300, 16411}, {0, 8},     {2000, 10}};

double bound(DType dtype) { return dtype == DType::F32 ? 4e-6 : 1.0 / 128; }

struct Inputs {
  Tensor x, gamma, beta, dy;
};
Inputs make(const Shape& shape, DType dtype) {
  return {uniform(shape, dtype, -1, 3, 1), uniform({shape[-1]}, dtype, 0.5, 1.5, 2),
          uniform({shape[-1]}, dtype, -1, 1, 3), uniform(shape, dtype, -2, 2, 4)};
}

// {dx, dgamma, dbeta}, the sums added to 3.
std::vector<Tensor> backward(bool centred, const std::vector<Tensor>& in, DType sums) {
  const Tensor &x = in[0], &gamma = in[1], &dy = in[2], &mean = in[3], &rstd = in[4];
  Tensor dx = Tensor::empty(x.shape(), x.dtype(), x.device());
  Tensor dgamma = Tensor::full(gamma.shape(), 3, sums, x.device());
  Tensor dbeta = Tensor::full(gamma.shape(), 3, sums, x.device());
  if (centred)
    NIBBLE_DISPATCH(x.device(), layer_norm_backward(dx, dgamma, dbeta, dy, x, gamma, mean, rstd));
  else
    NIBBLE_DISPATCH(x.device(), rms_norm_backward(dx, dgamma, dy, x, gamma, rstd));
  return {dx, dgamma, dbeta};
}

}  // namespace

GPU_TEST("cuda norm: outputs and statistics agree with the CPU's") {
  for (const DType dtype : kBoth)
    for (const Shape& shape : kShapes) {
      const Inputs i = make(shape, dtype);
      for (const int kind : {0, 1, 2})
        in_lockstep(
            {i.x, i.gamma, i.beta},
            [&](const std::vector<Tensor>& in) {
              const ops::NormResult r = kind == 0   ? ops::layer_norm(in[0], in[1], in[2])
                                        : kind == 1 ? ops::layer_norm(in[0], in[1], {})
                                                    : ops::rms_norm(in[0], in[1]);
              return std::vector{r.y, r.mean, r.rstd};
            },
            [&](const Tensor& cpu, const Tensor& gpu) {
              check_near(cpu, gpu, bound(cpu.dtype()), 1,
                         fmt::format("kind {} of {} {}", kind, shape, dtype));
            });
    }
}

GPU_TEST("cuda norm: gradients agree with the CPU's, and add to what is there") {
  for (const DType dtype : kBoth)
    for (const DType sums : {DType::F32, dtype})
      for (const Shape& shape : kShapes)
        for (const bool centred : {true, false}) {
          if (shape.numel() == 0) continue;
          const Inputs i = make(shape, dtype);
          const ops::NormResult r =
              centred ? ops::layer_norm(i.x, i.gamma, i.beta) : ops::rms_norm(i.x, i.gamma);
          const double rows = static_cast<double>(shape[0]);
          in_lockstep(
              {i.x, i.gamma, i.dy, centred ? r.mean : r.rstd, r.rstd},
              [&](const std::vector<Tensor>& in) { return backward(centred, in, sums); },
              [&](const Tensor& cpu, const Tensor& gpu) {
                // dx in units of dy; sums over rows in those of a random walk.
                const bool over_rows = cpu.rank() == 1;
                check_near(cpu, gpu, bound(cpu.dtype()), over_rows ? 1 + std::sqrt(rows) : 1,
                           fmt::format("{} {} {}", shape, dtype, sums));
              });
        }
}

GPU_TEST("cuda norm: undefined gradients are skipped") {
  for (const Shape& shape : {Shape{70, 768}, {9, 9000}}) {
    const Inputs i = make(shape, DType::BF16);
    const ops::NormResult r = ops::layer_norm(i.x, i.gamma, i.beta);
    const std::vector<Tensor> in = on_gpu({i.x, i.gamma, i.dy, r.mean, r.rstd});
    const std::vector<Tensor> all = backward(true, in, DType::F32);
    Tensor none;
    Tensor dx = Tensor::empty(shape, DType::BF16, kGpu);
    cuda::layer_norm_backward(dx, none, none, in[2], in[0], in[1], in[3], in[4]);
    check_bits(all[0].to(kCpu), dx, "dx alone");
    Tensor dgamma = Tensor::full({shape[1]}, 3, DType::F32, kGpu), dbeta = dgamma.clone();
    cuda::layer_norm_backward(none, dgamma, none, in[2], in[0], in[1], in[3], in[4]);
    check_bits(all[1].to(kCpu), dgamma, "dgamma alone");
    cuda::layer_norm_backward(none, none, dbeta, in[2], in[0], in[1], in[3], in[4]);
    check_bits(all[2].to(kCpu), dbeta, "dbeta alone");
  }
}

GPU_TEST("cuda norm: bits depend neither on addresses nor on the run, and the rest stays") {
  for (const DType dtype : kBoth)
    for (const Shape& shape : {Shape{40, 768}, {21, 1600}, {7, 1001}, {3, 9000}}) {
      const std::int64_t n = shape.numel();
      const Inputs i = make(shape, dtype);
      const Tensor gamma = i.gamma.to(kGpu), beta = i.beta.to(kGpu), x = i.x.to(kGpu);
      const ops::NormResult expected = ops::layer_norm(x, gamma, beta);
      check_bits(expected.y.to(kCpu), ops::layer_norm(x, gamma, beta).y, "again");

      Tensor from = Tensor::zeros({n + 1}, dtype, kGpu);
      Tensor shifted = from.slice(0, 1, n + 1).view(shape);
      shifted.copy_from(x);
      Tensor buffer = Tensor::full({n + 8}, 7, dtype, kGpu);
      Tensor y = buffer.slice(0, 5, n + 5).view(shape);
      Tensor mean = Tensor::empty({shape[0]}, DType::F32, kGpu), rstd = mean.clone();
      cuda::layer_norm(y, mean, rstd, shifted, gamma, beta, 1e-5);
      check_bits(expected.y.to(kCpu), y.clone(), "off 16 bytes");
      check_bits(expected.mean.to(kCpu), mean, "mean");
      check_bits(expected.rstd.to(kCpu), rstd, "rstd");
      for (const Tensor& rest : {buffer.slice(0, 0, 5), buffer.slice(0, n + 5, n + 8)})
        for (const float v : rest.clone().to(kCpu).to_vector()) CHECK(v == 7);

      const std::vector<Tensor> in{x, gamma, i.dy.to(kGpu), mean, rstd};
      std::vector<Tensor> moved = in;
      moved[0] = shifted;
      const std::vector<Tensor> a = backward(true, in, DType::F32),
                                b = backward(true, moved, DType::F32);
      for (std::size_t k = 0; k < a.size(); ++k) check_bits(a[k].to(kCpu), b[k], "gradients");
    }
}

GPU_TEST("cuda norm: not-a-number stays in its row") {
  const Inputs i = make({50, 800}, DType::F32);
  Tensor x = i.x.clone();
  x.slice(0, 13, 14).fill(NAN);
  x.slice(0, 14, 15).fill(INFINITY);
  in_lockstep(
      {x, i.gamma, i.beta},
      [](const std::vector<Tensor>& in) {
        const ops::NormResult r = ops::layer_norm(in[0], in[1], in[2]);
        return std::vector{r.y, r.mean, r.rstd};
      },
      [](const Tensor& cpu, const Tensor& gpu) { check_near(cpu, gpu, 4e-6, 1); });
}

GPU_TEST("cuda norm: with a residual, forward and backward, the bits of the kernels apart") {
  for (const DType dtype : kBoth)
    for (const Shape& shape : kShapes)
      for (const bool shift : {true, false}) {
        if (shape.numel() == 0) continue;
        CAPTURE(shape);
        CAPTURE(dtype);
        const Inputs i = make(shape, dtype);
        const Tensor x = i.x.to(kGpu), gamma = i.gamma.to(kGpu), dy = i.dy.to(kGpu);
        const Tensor beta = shift ? i.beta.to(kGpu) : Tensor();
        const Tensor other = uniform(shape, dtype, -3, 3, 5).to(kGpu);
        const ops::AddedNorm fused = ops::add_layer_norm(x, other, gamma, beta);
        const Tensor sum = ops::add(x, other);
        const ops::NormResult norm = ops::layer_norm(sum, gamma, beta);
        check_bits(sum.to(kCpu), fused.sum, "sum");
        check_bits(norm.y.to(kCpu), fused.norm.y, "norm");
        check_bits(norm.mean.to(kCpu), fused.norm.mean, "mean");
        check_bits(norm.rstd.to(kCpu), fused.norm.rstd, "rstd");

        const std::vector<Tensor> apart =
            backward(true, {sum, gamma, dy, norm.mean, norm.rstd}, DType::F32);
        Tensor dx = Tensor::empty(shape, dtype, kGpu);
        Tensor dgamma = Tensor::full(gamma.shape(), 3, DType::F32, kGpu), dbeta = dgamma.clone();
        cuda::add_layer_norm_backward(dx, dgamma, dbeta, dy, sum, gamma, norm.mean, norm.rstd,
                                      other, true);
        check_bits(ops::add(other, apart[0]).to(kCpu), dx, "dx");
        check_bits(apart[1].to(kCpu), dgamma, "dgamma");
        check_bits(apart[2].to(kCpu), dbeta, "dbeta");
        for (const DType sums : kBoth) {  // added to zeros, or written
          const Tensor zeros = Tensor::zeros(gamma.shape(), sums, kGpu);
          Tensor added[2] = {zeros.clone(), zeros.clone()}, fresh[2];
          for (Tensor& t : fresh) t = Tensor::full(gamma.shape(), NAN, sums, kGpu);
          cuda::add_layer_norm_backward(dx, added[0], added[1], dy, sum, gamma, norm.mean,
                                        norm.rstd, other, true);
          cuda::add_layer_norm_backward(dx, fresh[0], fresh[1], dy, sum, gamma, norm.mean,
                                        norm.rstd, other, false);
          check_bits(added[0].to(kCpu), fresh[0], "fresh dgamma");
          check_bits(added[1].to(kCpu), fresh[1], "fresh dbeta");
        }
      }
  // Of no rows the fresh sums are zeros.
  Tensor none = Tensor::empty({0, 8}, DType::BF16, kGpu),
         stats = Tensor::empty({0}, DType::F32, kGpu);
  Tensor dgamma = Tensor::full({8}, 3, DType::F32, kGpu), dbeta = dgamma.clone();
  cuda::add_layer_norm_backward(none, dgamma, dbeta, none, none,
                                Tensor::full({8}, 1, DType::BF16, kGpu), stats, stats, none, false);
  check_bits(Tensor::zeros({8}), dgamma, "no rows");
  check_bits(Tensor::zeros({8}), dbeta, "no rows");
}
