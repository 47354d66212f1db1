#include "check.h"

#include <cmath>
#include <cstdio>
#include <cstring>

#include "host_block.h"
#include "reference.h"

namespace nibble::spike {
namespace {

int report(bool ok, const std::string& what) {
  std::printf("%s  %s\n", ok ? "ok  " : "FAIL", what.c_str());
  return ok ? 0 : 1;
}

/// Codes and scales of one encoding, computed by loops; `at` gives an element's scale group.
struct HostCodes {
  std::vector<std::int8_t> codes;  // row-major [rows, cols]
  std::vector<float> scales;
};

template <class Group>
HostCodes encode_on_host(const std::vector<float>& x, int rows, int cols, bool stochastic,
                         NoiseKey key, std::size_t groups, Group group) {
  std::vector<float> absmax(groups, 0.0f);
  for (int r = 0; r < rows; ++r)
    for (int c = 0; c < cols; ++c) {
      float& a = absmax[group(r, c)];
      a = std::max(a, std::fabs(x[std::size_t(r) * cols + c]));
    }
  HostCodes out{std::vector<std::int8_t>(x.size()), std::vector<float>(groups)};
  for (std::size_t g = 0; g < groups; ++g) out.scales[g] = absmax[g] / 127.0f;
  for (std::size_t i = 0; i < x.size(); ++i) {
    float noise = 0;
    if (stochastic) {
      const Bits4 d = draws(i / 8, key);
      const std::uint32_t words[4] = {d.x, d.y, d.z, d.w};
      const std::uint32_t w = words[i % 8 / 2];
      noise = centered(i % 2 == 0 ? w & 0xffffu : w >> 16);
    }
    const float inverse = inverse_scale(absmax[group(int(i / cols), int(i % cols))]);
    const float scaled = x[i] * inverse;
    const float code = std::nearbyint(scaled + noise);
    if (std::fabs(code) > 127) throw std::runtime_error("encode_on_host: code out of range");
    out.codes[i] = std::int8_t(code);
  }
  return out;
}

template <class T>
bool same(const std::vector<T>& a, const std::vector<T>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0;
}

std::vector<std::int8_t> transpose(const std::vector<std::int8_t>& x, int rows, int cols) {
  std::vector<std::int8_t> t(x.size());
  for (int r = 0; r < rows; ++r)
    for (int c = 0; c < cols; ++c) t[std::size_t(c) * rows + r] = x[std::size_t(r) * cols + c];
  return t;
}

template <bool kGradient>
int check_encoding(Family family, int rows, int cols) {
  AbsmaxArena arena(std::size_t(rows) + cols);
  arena.zero_async();
  Operand op(rows, cols, family, true, arena);
  fill_normal(op.dense.get(), rows, cols,
              {.deviation = 0.37f, .outlier_every = 31, .outlier_gain = 9, .row_sigma = 1}, 5);
  check(cudaMemset(op.dense.get() + std::size_t(3) * cols, 0, cols * sizeof(bf16)));  // a zero row
  const auto dense = op.dense.host();
  std::vector<float> x(dense.size());
  for (std::size_t i = 0; i < x.size(); ++i) x[i] = __bfloat162float(dense[i]);

  Encoder encoder(cols);
  Profiler off(false);
  Buffer<float> sums(cols);
  const NoiseKey key{11, 22, 33, 44};
  encoder.encode<kGradient>(off, "check", op.dense.get(), op, sums.get(), key);

  const int rt = op.row_tiles(), ct = op.col_tiles();
  const bool row = family == Family::kRow, tile = family == Family::kTile;
  auto by_row = [&](int r, int c) {
    return row ? std::size_t(r) : std::size_t(tile ? r / kTile : r) * ct + c / kTile;
  };
  auto by_col = [&](int r, int c) {
    return row ? std::size_t(c) : tile ? by_row(r, c) : std::size_t(c) * rt + r / kTile;
  };
  const auto direct =
      encode_on_host(x, rows, cols, kGradient, key, by_row(rows - 1, cols - 1) + 1, by_row);
  const auto crossed =
      encode_on_host(x, rows, cols, kGradient, key, by_col(rows - 1, cols - 1) + 1, by_col);
  bool ok = same(op.codes.host(), direct.codes) && same(op.scales.host(), direct.scales) &&
            same(op.codes_t.host(), transpose(crossed.codes, rows, cols)) &&
            (tile || same(op.scales_t.host(), crossed.scales));
  if constexpr (kGradient) {
    const auto got = sums.host();
    for (int c = 0; c < cols; ++c) {
      double want = 0, size = 0;
      for (int r = 0; r < rows; ++r) {
        want += x[std::size_t(r) * cols + c];
        size += std::fabs(x[std::size_t(r) * cols + c]);
      }
      ok = ok && std::fabs(got[c] - want) <= 1e-5 * size;
    }
  }
  return report(ok, std::string("encode bit for bit, ") + to_string(family) +
                        (kGradient ? ", stochastic, " : ", nearest, ") + std::to_string(rows) +
                        " x " + std::to_string(cols));
}

/// A producer that encodes in one pass against the same producer in bf16, encoded by a second pass
/// (which is checked bit for bit). Row sums differ in order, so a code may be off by one, rarely.
template <class P>
int check_one_pass(const char* name, P p, Family family, int rows, int cols) {
  AbsmaxArena unused(1);
  Operand one(rows, cols, family, true, unused), two(rows, cols, family, true, unused);
  Operand dense(rows, cols, Family::kBf16, true, unused);
  Encoder encoder(cols);
  Profiler off(false);
  Buffer<float> sums_one(3 * cols), sums_two(3 * cols);
  sums_one.zero();
  sums_two.zero();
  const NoiseKey key{1, 2, 3, 4};
  encoder.produce(off, name, p, one, sums_one.get(), key);
  encoder.produce(off, name, p, dense, sums_two.get(), key);
  Buffer<float> again(cols);
  encoder.encode<P::kGradient>(off, name, dense.dense.get(), two, again.get(), key);
  auto off_by = [](const std::vector<std::int8_t>& a, const std::vector<std::int8_t>& b) {
    std::size_t one_off = 0, more = 0;
    for (std::size_t i = 0; i < a.size(); ++i) {
      const int d = std::abs(a[i] - b[i]);
      one_off += d == 1;
      more += d > 1;
    }
    return more > 0 ? 1.0 : double(one_off) / double(a.size());
  };
  const double codes = std::max(off_by(one.codes.host(), two.codes.host()),
                                off_by(one.codes_t.host(), two.codes_t.host()));
  double sums = 0, size = 1e-30;
  const auto s1 = sums_one.host(), s2 = sums_two.host();
  for (std::size_t i = 0; i < s1.size(); ++i) {
    sums += std::fabs(s1[i] - s2[i]);
    size += std::fabs(s2[i]);
  }
  return report(codes < 0.02 && sums / size < 1e-3,
                std::string("one pass against two, ") + to_string(family) + ", " + name + ", " +
                    std::to_string(rows) + " x " + std::to_string(cols) + ": codes off by one " +
                    std::to_string(100 * codes) + " %");
}

int check_one_passes(int rows, int cols) {
  auto make = [&](int r, Distribution d, std::uint32_t seed) {
    Buffer<bf16> b(std::size_t(r) * cols);
    fill_normal(b.get(), r, cols, d, seed);
    return b;
  };
  const auto x = make(rows, {.mean = 0.3f}, 1), dy = make(rows, {.row_sigma = 1}, 2);
  const auto residual = make(rows, {}, 3), gamma = make(1, {.mean = 1, .deviation = 0.1f}, 4);
  const auto beta = make(1, {.deviation = 0.1f}, 5);
  Buffer<float2> stats(rows);
  int failures = 0;
  for (Family f : {Family::kTile, Family::kGroup}) {
    failures += check_one_pass("ln", LnForward{x.get(), gamma.get(), beta.get(), stats.get()}, f,
                               rows, cols);
    failures += check_one_pass(
        "ln backward", LnBackward{dy.get(), x.get(), gamma.get(), residual.get(), stats.get()}, f,
        rows, cols);
    failures += check_one_pass("gelu", Gelu{{}, x.get()}, f, rows, cols);
    failures += check_one_pass("gelu backward", GeluBackward{{}, dy.get(), x.get()}, f, rows, cols);
  }
  return failures;
}

double relative(const Buffer<double>& gpu, const std::vector<double>& host) {
  const auto g = gpu.host();
  double e = 0, r = 0;
  for (std::size_t i = 0; i < g.size(); ++i) {
    e += (g[i] - host[i]) * (g[i] - host[i]);
    r += host[i] * host[i];
  }
  return std::sqrt(e / r);
}

int check_reference(const Reference& gpu, const HostBlock& host) {
  double worst = std::max(relative(gpu.y, host.y), relative(gpu.dx, host.dx));
  for (int l = 0; l < kLayers; ++l)
    worst = std::max(
        {worst, relative(gpu.dweight[l], host.dweight[l]), relative(gpu.dbias[l], host.dbias[l])});
  for (int i = 0; i < 2; ++i)
    worst = std::max(
        {worst, relative(gpu.dgamma[i], host.dgamma[i]), relative(gpu.dbeta[i], host.dbeta[i])});
  return report(worst < 1e-12, "float64 block on the GPU against the CPU's loops, worst " +
                                   std::to_string(worst * 1e12) + "e-12");
}

int check_variant(GemmLibrary& gemm, const BlockData& data, const Reference& reference,
                  Family family, Products products, double limit) {
  Block block(gemm, data, family, products);
  Profiler off(false);
  block.run(off);
  double worst = 0;
  std::string where;
  for (const auto& e : compare(block, reference))
    if (!(e.norm.relative() <= worst)) {
      worst = e.norm.relative();
      where = e.name;
    }
  const bool fast = products == Products::kFast;
  int failures = report(worst < limit, std::string("block, ") + to_string(family) +
                                           (fast ? "" : ", float64 products") + ": worst error " +
                                           std::to_string(worst) + " in " + where);
  if (family == Family::kRow && fast)
    failures += report(block.count_wrong(512) == 0, "int8 products equal integer loops");
  return failures;
}

}  // namespace

int run_checks(GemmLibrary& gemm) {
  int failures = 0;
  for (Family f : {Family::kRow, Family::kTile, Family::kGroup})
    for (auto [rows, cols] : {std::pair{256, 192}, std::pair{1600, 384}, std::pair{128, 4800}}) {
      failures += check_encoding<false>(f, rows, cols);
      failures += check_encoding<true>(f, rows, cols);
    }
  failures += check_one_passes(256, 768) + check_one_passes(128, 1600);
  const BlockData data({2, 128, 192}, false);
  const Reference reference(gemm, data);
  failures += check_reference(reference, HostBlock(data));
  failures += check_variant(gemm, data, reference, Family::kBf16, Products::kFast, 0.012);
  // A tile that straddles q, k and v (192 columns each) drowns the smaller gradient: a wider limit.
  failures += check_variant(gemm, data, reference, Family::kTile, Products::kDequantized, 0.1);
  for (Family f : {Family::kRow, Family::kGroup})
    failures += check_variant(gemm, data, reference, f, Products::kDequantized, 0.06);
  failures += check_variant(gemm, data, reference, Family::kRow, Products::kFast, 0.06);
  return failures;
}

}  // namespace nibble::spike
