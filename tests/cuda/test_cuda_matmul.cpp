// Dense products on the GPU against f64, within the a-priori bound of a sum of K terms:
// |c − exact| ≤ (K + 2) · u · Σ|a||b| + the rounding of c, with u = 2^-24 for f32 (every order of
// summation obeys it) and 2^-23 for bf16, because tensor cores truncate when they align addends.
#include <algorithm>
#include <array>
#include <functional>

#include "tensor/biased_product.h"
#include "tensor/cuda/gemm_lt.h"
#include "tensor/cuda/matmul.h"
#include "tests/cuda/lockstep.h"

using namespace nibble;
using namespace nibble::testing;

namespace {

constexpr double kF32 = 0x1p-24, kBf16 = 0x1p-8;  // half a unit in the last place, relative

// c = start + a·b: every element within the bound; a and b may be views of CPU tensors.
void check_product(const Tensor& c, const Tensor& a, const Tensor& b, double start,
                   const std::string& what) {
  const Tensor wide_a = a.to(DType::F64), wide_b = b.to(DType::F64);
  const std::vector<double> exact = ops::matmul(wide_a, wide_b).to_vector<double>();
  const std::vector<double> size =
      ops::matmul(ops::abs(wide_a), ops::abs(wide_b)).to_vector<double>();
  const std::vector<double> got = c.to(kCpu).to_vector<double>();
  REQUIRE(got.size() == exact.size());
  const double unit = a.dtype() == DType::BF16 ? 2 * kF32 : kF32;
  const double rounding = c.dtype() == DType::BF16 ? kBf16 : kF32;
  const auto terms = static_cast<double>(a.size(-1) + 2);
  std::string wrong;
  for (std::size_t i = 0; i < got.size() && wrong.empty(); ++i) {
    const double expected = exact[i] + start;
    // Into bf16 cuBLASLt may round the product before it adds what was there.
    const double twice =
        start != 0 && c.dtype() == DType::BF16 ? rounding * std::fabs(exact[i]) : 0;
    const double bound = terms * unit * (size[i] + std::fabs(start)) +
                         rounding * (1 + rounding) * std::fabs(expected) + twice;
    if (!(std::fabs(got[i] - expected) <= bound))
      wrong = fmt::format("element {}: got {}, expected {} within {}", i, got[i], expected, bound);
  }
  CHECK_MESSAGE(wrong.empty(), what, ": ", wrong);
}

struct Sizes {
  std::int64_t m, k, n;
};

// [rows, cols] as stored, or the transposed view of [cols, rows].
Tensor operand(std::int64_t rows, std::int64_t cols, bool transposed, DType dtype,
               std::uint32_t site) {
  return uniform(transposed ? Shape{cols, rows} : Shape{rows, cols}, dtype, -2, 2, site);
}

std::uint64_t generic_during(const std::function<void()>& f) {
  const std::uint64_t before = cuda::generic_products();
  f();
  return cuda::generic_products() - before;
}

}  // namespace

GPU_TEST("cuda matmul: every dtype, layout and odd size") {
  for (const DType dtype : {DType::F32, DType::BF16})
    for (const Sizes s : {Sizes{1, 1, 1},
                          {1, 70, 33},
                          {17, 1, 5},
                          {3, 129, 1},
                          {64, 64, 64},
                          {67, 31, 45},
                          {300, 65, 130},
                          {128, 256, 384},
                          {257, 1024, 136}})
      for (int layout = 0; layout < 4; ++layout) {
        const bool ta = (layout & 1) != 0, tb = (layout & 2) != 0;
        const Tensor a = operand(s.m, s.k, ta, dtype, 1), b = operand(s.k, s.n, tb, dtype, 2);
        const auto product = [&](const std::vector<Tensor>& x) {
          return std::vector{ops::matmul(ta ? x[0].t() : x[0], tb ? x[1].t() : x[1])};
        };
        const std::string what =
            fmt::format("{} [{}, {}] x [{}, {}] layout {}", dtype, s.m, s.k, s.k, s.n, layout);
        in_lockstep({a, b}, product, [&](const Tensor& cpu, const Tensor& gpu) {
          CHECK(gpu.dtype() == dtype);
          check_product(cpu, ta ? a.t() : a, tb ? b.t() : b, 0, "cpu " + what);
          check_product(gpu, ta ? a.t() : a, tb ? b.t() : b, 0, "gpu " + what);
        });
      }
}

GPU_TEST("cuda matmul: f32 products are IEEE f32, not TF32") {
  // Times the identity, every element must come back bit for bit; TF32 keeps 10 of 23 bits.
  const Tensor x = uniform({256, 256}, DType::F32, -2, 2, 3);
  std::vector<float> eye(256 * 256);
  for (std::size_t i = 0; i < 256; ++i) eye[i * 257] = 1;
  const Tensor one = Tensor::from(eye, {256, 256}).to(kGpu), y = x.to(kGpu);
  check_bits(x, ops::matmul(one, y));
  check_bits(x, ops::matmul(y, one));
  check_bits(x, ops::matmul(one.t(), y));
  // An outer product is one multiplication an element.
  const Tensor u = uniform({128, 1}, DType::F32, -2, 2, 4),
               v = uniform({1, 160}, DType::F32, -2, 2, 5);
  check_bits(ops::mul(u.expand({128, 160}), v.expand({128, 160})),
             ops::matmul(u.to(kGpu), v.to(kGpu)));
}

GPU_TEST("cuda matmul: accumulates, also wider and into strided rows, and touches nothing else") {
  for (const DType dtype : {DType::F32, DType::BF16})
    for (const DType out : {dtype, DType::F32})
      for (const Sizes s : {Sizes{19, 40, 23}, {64, 128, 96}, {1, 48, 64}, {130, 33, 7}})
        for (const std::int64_t left : {std::int64_t{8}, std::int64_t{3}})
          for (const bool accumulate : {true, false}) {
            const Tensor a = operand(s.m, s.k, false, dtype, 6),
                         b = operand(s.k, s.n, true, dtype, 7);
            Tensor frame = Tensor::full({s.m + 2, s.n + 2 * left}, 1.5, out, kGpu);
            Tensor c = frame.slice(0, 1, s.m + 1).slice(1, left, left + s.n);
            ops::matmul_into(c, a.to(kGpu), b.to(kGpu).t(), accumulate);
            const std::string what = fmt::format("{} into {} [{}, {}, {}] from column {}", dtype,
                                                 out, s.m, s.k, s.n, left);
            const Tensor back = frame.to(kCpu);
            check_product(back.slice(0, 1, s.m + 1).slice(1, left, left + s.n), a, b.t(),
                          accumulate ? 1.5 : 0, what);
            for (const Tensor& side :
                 {back.slice(0, 0, 1), back.slice(0, s.m + 1, s.m + 2), back.slice(1, 0, left),
                  back.slice(1, left + s.n, left * 2 + s.n)})
              for (const float v : side.to_vector()) REQUIRE_MESSAGE(v == 1.5f, what);
          }
}

GPU_TEST("cuda matmul: a bias is added before the one rounding, by either kernel") {
  // Whole sums, exact in any order; tier: exact.
  for (const DType dtype : {DType::F32, DType::BF16})
    for (const Sizes s : {Sizes{64, 264, 128}, {3, 257, 5}, {33, 300, 48}}) {
      const Tensor a = Tensor::full({s.m, s.k}, 1, dtype), b = Tensor::full({s.k, s.n}, 1, dtype);
      const Tensor bias = uniform({s.n}, DType::F32, -4, 4, 12).to(dtype);
      Tensor cpu = Tensor::empty({s.m, s.n}, dtype), gpu = Tensor::empty({s.m, s.n}, dtype, kGpu);
      ops::matmul_bias_into(cpu, a, b, bias);
      ops::matmul_bias_into(gpu, a.to(kGpu), b.to(kGpu), bias.to(kGpu));
      check_bits(cpu, gpu, fmt::format("{} [{}, {}, {}]", dtype, s.m, s.n, s.k));
    }
}

GPU_TEST("cuda matmul: batches, broadcast and permuted") {
  for (const DType dtype : {DType::F32, DType::BF16}) {
    const auto close = [&](const Tensor& a, const Tensor& b, const char* what) {
      return [=](const Tensor&, const Tensor& gpu) { check_product(gpu, a, b, 0, what); };
    };
    const Tensor a = uniform({2, 1, 5, 24}, dtype, -2, 2, 8),
                 b = uniform({3, 24, 16}, dtype, -2, 2, 9);
    in_lockstep(
        {a, b}, [](const auto& x) { return std::vector{ops::matmul(x[0], x[1])}; },
        close(a, b, "broadcast"));
    const Tensor packed = uniform({33, 4, 16}, dtype, -2, 2, 10);  // [tokens, heads, width]
    const Tensor heads = packed.permute({1, 0, 2});
    in_lockstep(
        {packed},
        [](const auto& x) {
          const Tensor h = x[0].permute({1, 0, 2});
          return std::vector{ops::matmul(h, h.transpose(1, 2))};
        },
        close(heads, heads.transpose(1, 2), "heads"));
    const Tensor left = uniform({7, 12}, dtype, -2, 2, 11),
                 right = uniform({5, 12, 9}, dtype, -2, 2, 12);
    in_lockstep(
        {left, right},
        [](const auto& x) {
          return std::vector{ops::matmul(x[0].expand({5, 7, 12}), x[1])};
        },
        close(left.expand({5, 7, 12}), right, "one left side"));
  }
  // More matrices than a grid of the library's kernels holds.
  const Tensor many = uniform({70000, 2, 3}, DType::F32, -2, 2, 13);
  const Tensor c = ops::matmul(many.to(kGpu), many.to(kGpu).transpose(1, 2));
  check_product(c, many, many.transpose(1, 2), 0, "70000 matrices");
}

GPU_TEST("cuda matmul: slices that start anywhere") {
  for (const DType dtype : {DType::F32, DType::BF16})
    for (std::int64_t begin = 0; begin < 9; ++begin) {
      const Tensor a = uniform({40, 64 + 9}, dtype, -2, 2, 14),
                   b = uniform({48, 64 + 9}, dtype, -2, 2, 15);
      const auto part = [&](const Tensor& x) { return x.slice(1, begin, begin + 64); };
      const Tensor c = ops::matmul(part(a.to(kGpu)), part(b.to(kGpu)).t());
      check_product(c, part(a), part(b).t(), 0, fmt::format("{} from column {}", dtype, begin));
    }
}

GPU_TEST("cuda matmul: rows without a contiguous run take the general kernel, and are counted") {
  for (const DType dtype : {DType::F32, DType::BF16}) {
    const Tensor row = uniform({1, 40}, dtype, -2, 2, 16), b = uniform({40, 70}, dtype, -2, 2, 17);
    Tensor c;
    CHECK(generic_during([&] { c = ops::matmul(row.to(kGpu).expand({65, 40}), b.to(kGpu)); }) == 1);
    check_product(c, row.expand({65, 40}), b, 0, "a row broadcast");
    // The kernel itself, on what the library would serve.
    for (const Sizes s : {Sizes{1, 1, 1}, {65, 17, 63}, {64, 16, 64}, {130, 129, 200}})
      for (const DType out : {dtype, DType::F32}) {
        const Tensor x = uniform({3, s.k, s.m}, dtype, -2, 2, 18),
                     y = uniform({3, s.k, s.n}, dtype, -2, 2, 19);
        Tensor z = Tensor::full({3, s.m, s.n}, 0.5, out, kGpu);
        cuda::multiply_generic(z, x.to(kGpu).transpose(1, 2), y.to(kGpu), true);
        check_product(z, x.transpose(1, 2), y, 0.5, "general kernel");
      }
  }
}

GPU_TEST("cuda matmul: cuBLASLt serves aligned products of every layout") {
  for (const DType dtype : {DType::F32, DType::BF16})
    for (int layout = 0; layout < 4; ++layout) {
      const bool ta = (layout & 1) != 0, tb = (layout & 2) != 0;
      const Tensor a = operand(256, 128, ta, dtype, 20).to(kGpu),
                   b = operand(128, 512, tb, dtype, 21).to(kGpu);
      Tensor wide = Tensor::zeros({256, 512}, DType::F32, kGpu);
      CHECK(generic_during([&] {
              ops::matmul(ta ? a.t() : a, tb ? b.t() : b);
              ops::matmul_into(wide, ta ? a.t() : a, tb ? b.t() : b, true);
            }) == 0);
    }
}

GPU_TEST("cuda matmul: the same bits in every run") {
  // Long contractions of small results are where libraries split sums and may add them as they
  // come.
  for (const DType dtype : {DType::F32, DType::BF16})
    for (const Sizes s : {Sizes{64, 16384, 64}, {768, 4096, 96}, {33, 5001, 65}, {1, 8192, 512}}) {
      if (!in_sample()) continue;
      const Tensor a = uniform({s.m, s.k}, dtype, -2, 2, 22).to(kGpu),
                   b = uniform({s.k, s.n}, dtype, -2, 2, 23).to(kGpu);
      const Tensor first = ops::matmul(a, b).to(kCpu);
      for (int i = 0; i < 4; ++i) {
        ops::matmul(b.t(), b);  // leaves other sums in the workspace
        check_bits(first, ops::matmul(a, b), fmt::format("{} K = {}", dtype, s.k));
      }
      Tensor wide = Tensor::full({s.m, s.n}, 0.25, DType::F32, kGpu), again = wide.clone();
      ops::matmul_into(wide, a, b, true);
      ops::matmul_into(again, a, b, true);
      check_bits(wide.to(kCpu), again);
      check_product(first, a.to(kCpu), b.to(kCpu), 0, "long contraction");
    }
}

GPU_TEST("cuda matmul: empty extents, NaN and infinity") {
  const Tensor none = ops::matmul(Tensor::zeros({2, 3, 0}, DType::F32, kGpu),
                                  Tensor::zeros({0, 2}, DType::F32, kGpu));
  CHECK(none.to_vector() == std::vector<float>(12, 0.0f));
  CHECK(ops::matmul(Tensor::zeros({0, 3}, DType::BF16, kGpu),
                    Tensor::zeros({3, 2}, DType::BF16, kGpu))
            .numel() == 0);
  Tensor kept = Tensor::full({2, 2}, 3, DType::F32, kGpu);
  ops::matmul_into(kept, Tensor::zeros({2, 0}, DType::F32, kGpu),
                   Tensor::zeros({0, 2}, DType::F32, kGpu), true);
  CHECK(kept.to_vector() == std::vector<float>(4, 3.0f));
  for (const DType dtype : {DType::F32, DType::BF16}) {
    std::vector<float> values(32 * 64, 0.5f);
    values[3 * 64 + 7] = NAN;
    values[9 * 64 + 1] = INFINITY;
    const Tensor a = Tensor::from(values, {32, 64}).to(dtype), b = Tensor::full({64, 48}, 2, dtype);
    in_lockstep(
        {a, b},
        [&](const auto& x) {
          Tensor c = Tensor::full({32, 48}, NAN, dtype, x[0].device());  // must not be read
          ops::matmul_into(c, x[0], x[1], false);
          return std::vector{c};
        },
        [](const Tensor& cpu, const Tensor& gpu) { check_near(cpu, gpu, 0, 0, "not finite"); });
  }
}

GPU_TEST("cuda matmul: f64 is for the CPU, and the error says so") {
  const Tensor a = Tensor::zeros({2, 2}, DType::F64).to(kGpu);
  CHECK_THROWS_WITH_AS(ops::matmul(a, a),
                       "matmul: got dtype f64 on a GPU, expected f32 or bf16; f64 is for the CPU",
                       Error);
}

GPU_TEST("cuda matmul: plans add a bias, and refuse what they cannot form") {
  for (const DType dtype : {DType::F32, DType::BF16}) {
    const Tensor a = uniform({48, 64}, dtype, -2, 2, 24), b = uniform({64, 32}, dtype, -2, 2, 25);
    const Tensor bias = Tensor::full({32}, 0.75, dtype, kGpu), x = a.to(kGpu), y = b.to(kGpu);
    Tensor c = Tensor::empty({48, 32}, dtype, kGpu);
    cuda::LtProduct p;
    p.m = 48, p.n = 32, p.k = 64;
    p.a = {dtype, false, 64, 0, 16};
    p.b = {dtype, false, 32, 0, 16};
    p.c = {dtype, false, 32, 0, 16};
    p.bias_alignment = 16;
    CHECK(cuda::lt_multiply(p, {x.raw(), y.raw(), c.raw(), bias.raw()}));
    check_product(c, a, b, 0.75, "bias");
    p.c.dtype = DType::I32;
    CHECK_THROWS_AS((void)cuda::lt_multiply(p, {x.raw(), y.raw(), c.raw(), bias.raw()}), Error);
    p.c = {dtype, false, 31, 0, 16};
    CHECK_THROWS_AS((void)cuda::lt_multiply(p, {x.raw(), y.raw(), c.raw(), bias.raw()}), Error);
  }
}

TEST_CASE("cuda matmul: alignments are powers of two up to 16") {
  const auto at = [](std::uintptr_t address, std::int64_t distance) {
    return cuda::alignment_of(reinterpret_cast<const void*>(address), distance);
  };
  CHECK(at(4096, 0) == 16);
  CHECK(at(4096 + 8, 0) == 8);
  CHECK(at(4096, 6) == 2);
  CHECK(at(4097, 32) == 1);
}
