// Products of fp8 codes on the GPU beside the CPU's. Tier: exact where every sum fits the 14 bits
// that tensor cores keep; few ulp where only scales round; else bound by fp8_gemm's statement in
// quant/kernels.h.
#include <array>
#include <cmath>

#include "quant/cuda/fp8_gemm.h"
#include "quant/product_route.h"
#include "quant/qtensor.h"
#include "tests/cuda/lockstep.h"

using namespace nibble;
using namespace nibble::testing;

namespace {

QTensor to_gpu(const QTensor& q) {
  return QTensor(q.payload().to(kGpu), q.scales().to(kGpu), {}, {}, q.spec(), q.shape());
}

// Whole numbers within ±3, which fp8 holds exactly under power-of-two scales: up to k = 768 the sum
// of all |products| stays below 2^13 of their common unit.
Tensor whole(std::int64_t rows, std::int64_t cols, std::uint32_t site) {
  return uniform({rows, cols}, DType::F32, -3.49, 3.49, site).to(DType::I32).to(DType::F32);
}
QTensor encode(const Tensor& x, const std::string& spec) { return quantize(x, parse_spec(spec)); }

// The same codes under scales that are not powers of two.
QTensor with_odd_scales(const QTensor& q, std::uint32_t site) {
  const Tensor scales = uniform(q.scales().shape(), DType::F32, 1e-3, 1e-1, site);
  return QTensor(q.payload(), scales, {}, {}, q.spec(), q.shape());
}

const std::array<const char*, 2> kPairs[] = {
    {"e4m3:tensor", "e4m3:tensor"},     {"e5m2:tensor", "e4m3:tensor"},
    {"e4m3:tensor", "e5m2:tensor"},     {"e4m3:row", "e4m3:row"},
    {"e5m2:row", "e4m3:row"},           {"e4m3:row", "e5m2:tensor"},
    {"e4m3:tensor", "e4m3:row"},        {"e4m3:tile3x0", "e4m3:row"},
    {"e4m3:group32", "e4m3:block32"},   {"e5m2:group64", "e4m3:row"},
    {"e4m3:group128", "e4m3:block128"}, {"e4m3:group128", "e4m3:group128"},
    {"e4m3:group128", "e4m3:row"},      {"e4m3:row", "e4m3:block128"},
    {"e4m3:group128", "e4m3:tensor"},   {"e5m2:group128", "e4m3:block128"},
    {"e4m3:block128", "e4m3:group128"}};

struct Served {
  std::array<std::uint64_t, 5> counts{};
  Served() {
    for (int i = 0; i < 5; ++i)
      counts[static_cast<std::size_t>(i)] = cuda::fp8_products(static_cast<Fp8Route>(i));
  }
};

}  // namespace

GPU_TEST("cuda fp8: exact sums have the CPU's bits by every route") {
  for (const auto& [m, n, k] : {std::array<std::int64_t, 3>{64, 32, 96},
                                {1, 16, 16},
                                {3, 48, 64},
                                {17, 16, 160},
                                {129, 272, 320},
                                {132, 272, 384},
                                {128, 128, 768},
                                {1000, 768, 768}})
    for (const auto& [left, right] : kPairs) {
      if (!in_sample()) continue;
      const QTensor a = encode(whole(m, k, 1), left + std::string(":pow2")),
                    b = encode(whole(n, k, 2), right + std::string(":pow2"));
      const Tensor bias = whole(1, n, 3).view({n});
      for (const DType out : {DType::F32, DType::BF16})
        for (const DType bias_type : {DType::F32, DType::BF16})
          for (const Accumulation sums : {Accumulation::Full, Accumulation::Fast}) {
            const Tensor given = bias.to(bias_type);
            const MatmulOptions cpu{Mode::Real, out, given, sums},
                gpu{Mode::Real, out, given.to(kGpu), sums};
            check_bits(matmul_nt(a, b, cpu), matmul_nt(to_gpu(a), to_gpu(b), gpu),
                       fmt::format("[{}, {}, {}] {} x {} -> {}", m, n, k, left, right, out));
          }
    }
}

GPU_TEST("cuda fp8: adds to results, also to rows that lie apart") {
  for (const auto& [left, right] : kPairs) {
    const QTensor a = encode(whole(40, 96, 1), left + std::string(":pow2")),
                  b = encode(whole(32, 96, 2), right + std::string(":pow2"));
    for (const DType dtype : {DType::F32, DType::BF16})
      for (const std::int64_t right_margin : {0, 16, 5}) {  // 5: rows off 16 bytes
        if (!in_sample()) continue;
        Tensor cpu = Tensor::full({41, 32 + right_margin}, 2, dtype), gpu = cpu.to(kGpu);
        const auto inner = [](Tensor& x) { return x.slice(0, 0, 40).slice(1, 0, 32); };
        Tensor to_cpu = inner(cpu), on_gpu = inner(gpu);
        for (const bool accumulate : {true, false, true}) {
          matmul_nt_into(to_cpu, a, b, Mode::Real, accumulate);
          matmul_nt_into(on_gpu, to_gpu(a), to_gpu(b), Mode::Real, accumulate);
          check_bits(cpu, gpu, fmt::format("{} x {}, margin {}", left, right, right_margin));
        }
      }
  }
}

GPU_TEST("cuda fp8: results beyond the scratch memory go by slabs of rows") {
  const std::int64_t m = 2049, n = 65536, k = 32;  // 2 · 2^26 sums, and a row more
  const QTensor a = encode(whole(m, k, 1), "e4m3:tile3x0:pow2"),
                b = encode(whole(n, k, 2), "e4m3:row:pow2");
  const MatmulOptions options{Mode::Real, DType::BF16, {}};
  check_bits(matmul_nt(a, b, options), matmul_nt(to_gpu(a), to_gpu(b), options));
}

GPU_TEST("cuda fp8: any scales cost a few ulp") {
  for (const auto& [left, right] : kPairs) {
    const QTensor a = with_odd_scales(encode(whole(70, 256, 1), left + std::string(":pow2")), 5),
                  b = with_odd_scales(encode(whole(80, 256, 2), right + std::string(":pow2")), 6);
    const std::vector<double> cpu = matmul_nt(a, b).to_vector<double>(),
                              gpu = matmul_nt(to_gpu(a), to_gpu(b)).to(kCpu).to_vector<double>();
    // Blocks add up, so that a small sum may be off by the ulp of its largest part.
    const std::vector<double> size =
        ops::matmul(ops::abs(dequantize(a)), ops::abs(dequantize(b)).t()).to_vector<double>();
    std::size_t wrong = 0;
    for (std::size_t i = 0; i < cpu.size(); ++i)
      if (std::abs(gpu[i] - cpu[i]) > 0x1p-21 * size[i]) ++wrong;
    CHECK_MESSAGE(wrong == 0, left, " x ", right, ": ", wrong, " results off by over 8 ulp");
  }
}

GPU_TEST("cuda fp8: random sums within the bound of 14-bit accumulation") {
  constexpr std::int64_t k = 768;
  const Tensor x = Tensor::normal({256, k}, 0, 1, RngKey{5, 1}),
               w = Tensor::normal({128, k}, 0, 1, RngKey{5, 2});
  for (const auto& [left, right] : kPairs)
    for (const Accumulation sums : {Accumulation::Full, Accumulation::Fast}) {
      if (!in_sample()) continue;
      const QTensor a = encode(x, left), b = encode(w, right);
      const Tensor da = dequantize(a, DType::F64), db = dequantize(b, DType::F64);
      const auto truth = ops::matmul(da, db.t()).to_vector<double>(),
                 size = ops::matmul(ops::abs(da), ops::abs(db).t()).to_vector<double>(),
                 y = matmul_nt(to_gpu(a), to_gpu(b), {Mode::Real, DType::F32, {}, sums})
                         .to(kCpu)
                         .to_vector<double>();
      const bool fast = sums == Accumulation::Fast;
      const double bound = 0x1p-13 * 33 * (fast ? k / 32 : 4);
      double worst = 0, signal = 0, noise = 0;
      for (std::size_t i = 0; i < truth.size(); ++i) {
        const double error = y[i] - truth[i];
        worst = std::max(worst, std::abs(error) / size[i]);
        signal += truth[i] * truth[i];
        noise += error * error;
      }
      CAPTURE(left);
      CAPTURE(right);
      CAPTURE(fast);
      CHECK(worst <= bound);
      // A simulation of the stated arithmetic gives 78 dB, and 66 dB when fast.
      CHECK(10 * std::log10(signal / noise) >= (fast ? 55 : 65));
    }
}

GPU_TEST("cuda fp8: the same bits every time, full and fast") {
  const Tensor x = Tensor::normal({512, 1024}, 0, 1, RngKey{5, 1}),
               w = Tensor::normal({256, 1024}, 0, 1, RngKey{5, 2});
  for (const auto& [left, right] : kPairs)
    for (const Accumulation sums : {Accumulation::Full, Accumulation::Fast}) {
      if (!in_sample()) continue;
      const QTensor a = to_gpu(encode(x, left)), b = to_gpu(encode(w, right));
      const MatmulOptions options{Mode::Real, DType::BF16, {}, sums};
      const Tensor first = matmul_nt(a, b, options).to(kCpu);
      for (int i = 0; i < 3; ++i) check_bits(first, matmul_nt(a, b, options));
    }
}

GPU_TEST("cuda fp8: not-finite inputs give not-finite results") {
  Tensor a = Tensor::normal({16, 32}, 0, 1, RngKey{5, 1});
  const Tensor b = Tensor::normal({16, 32}, 0, 1, RngKey{5, 2});
  a.data<float>()[40] = std::numeric_limits<float>::infinity();
  const Tensor y = matmul_nt(to_gpu(encode(a, "e4m3:row")), to_gpu(encode(b, "e4m3:row"))).to(kCpu);
  for (std::int64_t j = 0; j < 16; ++j) {
    CHECK(std::isfinite(y.data<float>()[j]));
    CHECK(!std::isfinite(y.data<float>()[16 + j]));
  }
  const Tensor whole_tensor =
      matmul_nt(to_gpu(encode(a, "e5m2:tensor")), to_gpu(encode(b, "e4m3:tensor"))).to(kCpu);
  for (const float v : whole_tensor.to_vector()) CHECK(!std::isfinite(v));
}

GPU_TEST("cuda fp8: codes are multiplied as codes, and what is decoded is counted") {
  const auto run = [](const char* left, const char* right, std::int64_t n, std::int64_t k) {
    const QTensor a = to_gpu(encode(whole(64, k, 1), left)),
                  b = to_gpu(encode(whole(n, k, 2), right));
    const Served before;
    const std::uint64_t decoded = decoded_products();
    (void)matmul_nt(a, b, {Mode::Real, DType::BF16, {}});
    const Served after;
    std::string routes;
    for (std::size_t i = 0; i < 5; ++i)
      if (after.counts[i] != before.counts[i]) routes += to_string(static_cast<Fp8Route>(i));
    CHECK((decoded_products() != decoded) == (routes == to_string(Fp8Route::Decoded)));
    return routes;
  };
  CHECK(run("e4m3:tensor", "e4m3:tensor", 48, 96) == to_string(Fp8Route::TensorScales));
  CHECK(run("e5m2:tensor", "e4m3:tensor", 48, 96) == to_string(Fp8Route::TensorScales));
  // Compute capability 9.0 has outer vectors since cuBLASLt 12.9.
  const std::string rows = run("e4m3:row", "e4m3:row", 48, 96);
  MESSAGE("row scales are served by: ", rows);
  CHECK((rows == to_string(Fp8Route::RowScales) || rows == to_string(Fp8Route::Rescaled)));
  CHECK(run("e4m3:tile3x0", "e4m3:row", 48, 96) == to_string(Fp8Route::Rescaled));
  CHECK(run("e4m3:group32", "e4m3:block32", 48, 96) == to_string(Fp8Route::Rescaled));
  for (const auto& [left, right] : {std::array{"e4m3:group128", "e4m3:group128"},
                                    {"e4m3:group128", "e4m3:block128"},
                                    {"e4m3:block128", "e4m3:group128"}}) {
    const std::string blocks = run(left, right, 256, 384);
    MESSAGE(std::string(left), " x ", std::string(right), " is served by: ", blocks);
    CHECK((blocks == to_string(Fp8Route::BlockScales) || blocks == to_string(Fp8Route::Rescaled)));
  }
  CHECK(run("e4m3:row", "e4m3:row", 50, 96) == to_string(Fp8Route::Decoded));
  CHECK(run("e4m3:row", "e4m3:row", 48, 100) == to_string(Fp8Route::Decoded));
  CHECK(run("e5m2:row", "e5m2:row", 48, 96) == to_string(Fp8Route::Decoded));
}
