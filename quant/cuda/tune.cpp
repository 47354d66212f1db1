#include "quant/cuda/tune.h"

#include <cstring>

#include "quant/cuda/int_gemm.h"
#include "tensor/cuda/gemm_lt.h"
#include "tensor/cuda/timing.h"
#include "tensor/ops.h"

namespace nibble::cuda {
namespace {

// A candidate that is not clearly faster is not worth other bits.
constexpr double kGain = 0.98;
constexpr double kMaxNoise = 1e-4;
constexpr std::int64_t kCompared = 1 << 24;  // results

Device here() { return cuda_device(current()); }

Tensor random_values(const Shape& shape, DType dtype, std::uint32_t site) {
  const auto uniform = [&](double bound, DType as) {
    return Tensor::uniform(shape, -bound, bound, RngKey{7, site}, as, here());
  };
  switch (dtype) {
    case DType::F32:
    case DType::BF16: return uniform(1, dtype);
    case DType::I8: return uniform(127.49, DType::F32).to(DType::I8);
    case DType::U8: return ops::abs(uniform(255.49, DType::F32)).to(DType::U8);
    case DType::E4M3:
    case DType::E5M2: return uniform(448, DType::F32).to(dtype);
    case DType::U4x2: {
      Tensor nibbles = Tensor::empty(shape, dtype, here());
      const std::int64_t bytes = nibbles.bytes();
      const Tensor codes =
          Tensor::uniform({bytes}, -127.49, 127.49, RngKey{7, site}, DType::F32, here())
              .to(DType::I8);
      NIBBLE_CUDA_CHECK(cudaMemcpyAsync(nibbles.raw(), codes.raw(), static_cast<std::size_t>(bytes),
                                        cudaMemcpyDeviceToDevice, stream()));
      return nibbles;
    }
    default: return Tensor::zeros(shape, dtype, here());
  }
}

bool agree(const Tensor& got, const Tensor& expected) {
  const std::int64_t n = std::min(got.numel(), kCompared);
  const Tensor x = got.view({got.numel()}).slice(0, 0, n),
               y = expected.view({expected.numel()}).slice(0, 0, n);
  if (got.dtype() == DType::I32) return x.to_vector<std::int32_t>() == y.to_vector<std::int32_t>();
  const Tensor a = x.to(DType::F32), b = y.to(DType::F32), error = ops::sub(a, b);
  const double noise = ops::sum(ops::mul(error, error)).item(),
               signal = ops::sum(ops::mul(b, b)).item();
  return noise <= kMaxNoise * signal;
}
bool same_bits(const Tensor& got, const Tensor& expected) {
  const Tensor a = got.to(kCpu), b = expected.to(kCpu);
  return std::memcmp(a.raw(), b.raw(), static_cast<std::size_t>(a.bytes())) == 0;
}

struct Candidate {
  std::string plan, what;
  std::function<void()> run;
};
// Candidates write to `result`; the first is the untuned plan.
MeasuredProduct measure(const std::string& key, const std::vector<Candidate>& candidates,
                        Tensor& result, bool exact, int repeats) {
  MeasuredProduct m{.key = key, .plan = candidates.front().plan, .what = candidates.front().what};
  Tensor expected;
  for (const Candidate& c : candidates) {
    result.fill(0);
    c.run();
    synchronize();
    if (!expected) {
      expected = result.clone();
    } else if (exact ? !same_bits(result, expected) : !agree(result, expected)) {
      continue;
    }
    const double us = median_ms(repeats, c.run) * 1e3;
    if (m.candidates++ == 0) m.us = m.untuned_us = us;
    if (us < m.us && us < kGain * m.untuned_us) {
      m.us = us;
      m.plan = c.plan;
      m.what = c.what;
    }
  }
  return m;
}

std::int64_t extent_of(const LtMatrix& x, std::int64_t rows, std::int64_t cols,
                       std::int64_t batch) {
  const std::int64_t runs = x.transposed ? cols : rows, run = x.transposed ? rows : cols;
  return (batch - 1) * x.batch_stride + (runs - 1) * x.stride + run;
}

MeasuredProduct measure(const LtProduct& p, const std::vector<LtCandidate>& plans, int repeats) {
  const Tensor a = random_values({extent_of(p.a, p.m, p.k, p.batch)}, p.a.dtype, 1),
               b = random_values({extent_of(p.b, p.k, p.n, p.batch)}, p.b.dtype, 2);
  Tensor c = Tensor::zeros({extent_of(p.c, p.m, p.n, p.batch)}, p.c.dtype, here());
  const bool fp8 = p.a.dtype == DType::E4M3 || p.a.dtype == DType::E5M2;
  const Tensor bias = random_values({p.n}, fp8 ? DType::BF16 : p.c.dtype, 3),
               ones = Tensor::full({std::max(p.m, p.n) * (p.k / 128 + 1)}, 1, DType::F32, here());
  const LtPointers at{a.raw(), b.raw(), c.raw(), bias.raw(), ones.raw(), ones.raw()};
  std::vector<Candidate> candidates;
  for (const LtCandidate& plan : plans)
    candidates.push_back(
        {plan.plan, plan.what, [&p, &at, text = plan.plan] { lt_multiply_by(p, at, text); }});
  return measure(lt_key(p), candidates, c, p.c.dtype == DType::I32, repeats);
}

CodeOperand operand(DType payload, std::int64_t rows, std::int64_t k, std::int64_t tile_rows,
                    std::int64_t columns, bool zeros, std::uint32_t site) {
  CodeOperand x;
  x.codes = random_values({rows, payload == DType::U4x2 ? k + k % 2 : k}, payload, site);
  x.tile_rows = tile_rows;
  x.scales = Tensor::uniform({(rows + tile_rows - 1) / tile_rows, columns}, 1e-3, 1e-2,
                             RngKey{7, site + 10}, DType::F32, here());
  if (zeros)
    x.zeros = Tensor::uniform(x.scales.shape(), -99, 99, RngKey{7, site + 20}, DType::F32, here())
                  .to(DType::I32)
                  .to(DType::F32);
  return x;
}

MeasuredProduct measure(const IntProductKey& key, const std::vector<IntPlan>& plans, int repeats) {
  Tensor c = Tensor::zeros({key.m, key.n}, key.c, here());
  const IntProduct p{
      .c = c,
      .a = operand(key.a, key.m, key.k, key.a_tile_rows, key.a_columns, key.zero_points, 1),
      .b = operand(key.b, key.n, key.k, key.b_tile_rows, key.b_columns, false, 2),
      .k = key.k,
      .block = key.block,
      .bias = key.bias ? random_values({key.n}, DType::F32, 3) : Tensor(),
      .accumulate = key.accumulate};
  const Tensor before = key.gelu ? Tensor::empty(c.shape(), key.c, here()) : Tensor();
  std::vector<Candidate> candidates;
  for (const IntPlan& plan : plans)
    candidates.push_back({to_text(plan), to_text(plan), [&, plan] {
                            key.gelu ? int_gemm_gelu_by(p, before, plan) : int_gemm_by(p, plan);
                          }});
  return measure(int_key(key), candidates, c, true, repeats);
}

}  // namespace

std::vector<MeasuredProduct> measure_products(const MeasureOptions& options) {
  // Before measuring: routes that are tried plan products of their own.
  const std::vector<LtProduct> library = lt_products();
  const std::vector<IntProductKey> integer = int_products();
  std::vector<MeasuredProduct> measured;
  const auto keep = [&](MeasuredProduct m) {
    if (options.each) options.each(m);
    measured.push_back(std::move(m));
  };
  for (const LtProduct& p : library)
    if (const auto plans = lt_candidates(p, options.candidates); plans.size() > 1)
      keep(measure(p, plans, options.repeats));
  for (const IntProductKey& key : integer)
    if (const auto plans = int_candidates(key); plans.size() > 1)
      keep(measure(key, plans, options.repeats));
  return measured;
}

}  // namespace nibble::cuda
