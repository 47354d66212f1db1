// Integer products on the CPU beside Eigen's f32, the linear layers of GPT-2 small and medium:
//   cpu_int_gemm_bench [REPEATS [THREADS]]
// Every kind of tile that the machine can run, medians over REPEATS (9) rounds in which all take
// turns, random data, the integer result checked against f64 sums in the same program. One scale a
// row on either side; codes are packed anew in every product, as in training.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <functional>

#include "quant/cpu/int_gemm.h"
#include "quant/kernels.h"
#include "quant/qtensor.h"
#include "tensor/ops.h"
#include "tensor/thread_pool.h"

using namespace nibble;

namespace {

struct Extents {
  std::int64_t m, n, k;
};

CodeOperand operand(const QTensor& q) {
  CodeOperand x;
  x.codes = q.payload();
  x.scales = q.scales();
  x.tile_rows = 1;
  return x;
}

double error_of(const Tensor& c, const QTensor& a, const QTensor& b, std::int64_t k) {
  double worst = 0;
  const auto* qa = a.payload().data<std::int8_t>();
  const auto* qb = b.payload().data<std::int8_t>();
  for (std::int64_t i = 0; i < c.size(0); i += 97)
    for (std::int64_t j = 0; j < c.size(1); j += 89) {
      double sum = 0;
      for (std::int64_t x = 0; x < k; ++x) sum += double{1} * qa[i * k + x] * qb[j * k + x];
      sum *= static_cast<double>(a.scales().data<float>()[i]) * b.scales().data<float>()[j];
      const double got = c.data<float>()[i * c.size(1) + j];
      worst = std::max(worst, std::fabs(got - sum) / (std::fabs(sum) + 1e-3));
    }
  return worst;
}

double median(std::vector<double> x) {
  std::nth_element(x.begin(), x.begin() + static_cast<std::ptrdiff_t>(x.size() / 2), x.end());
  return x[x.size() / 2];
}

int bench(int repeats) {
  using Clock = std::chrono::steady_clock;
  const auto tiles = cpu::int_tiles();
  std::printf("%d threads; ms, and the ratio to Eigen f32\n%22s %9s", num_threads(), "[m, n, k]",
              "Eigen f32");
  for (const cpu::IntTile* t : tiles) std::printf(" %24s", t->name);
  std::printf("\n");
  std::vector<double> logs(tiles.size());
  const std::vector<Extents> shapes{{1024, 768, 768},   {1024, 2304, 768},  {1024, 3072, 768},
                                    {1024, 768, 3072},  {2048, 1024, 1024}, {2048, 4096, 1024},
                                    {2048, 1024, 4096}, {768, 768, 4096}};
  int wrong = 0;
  for (const Extents& e : shapes) {
    const Tensor x = Tensor::normal({e.m, e.k}, 0, 1, RngKey{1, 1}),
                 w = Tensor::normal({e.n, e.k}, 0, 1, RngKey{1, 2});
    QuantSpec spec;
    spec.tile = kPerRow;
    const QTensor qx = quantize(x, spec), qw = quantize(w, spec);
    Tensor c = Tensor::empty({e.m, e.n});
    std::vector<std::function<void()>> runs{[&] { c = ops::matmul(x, w.t()); }};
    for (const cpu::IntTile* t : tiles)
      runs.push_back([&, t] {
        cpu::use_int_tile(*t);
        cpu::int_gemm(c, operand(qx), operand(qw), e.k, e.k, {}, false);
      });
    std::vector<std::vector<double>> times(runs.size());
    for (int r = -1; r < repeats; ++r)
      for (std::size_t i = 0; i < runs.size(); ++i) {
        const auto begin = Clock::now();
        runs[i]();
        const double ms = std::chrono::duration<double, std::milli>(Clock::now() - begin).count();
        if (r >= 0) times[i].push_back(ms);
        if (r < 0 && i > 0 && error_of(c, qx, qw, e.k) > 1e-5) ++wrong;
      }
    const double eigen = median(times[0]);
    std::printf("%22s %9.2f", fmt::format("[{}, {}, {}]", e.m, e.n, e.k).c_str(), eigen);
    for (std::size_t i = 1; i < runs.size(); ++i) {
      const double ms = median(times[i]);
      logs[i - 1] += std::log(eigen / ms) / static_cast<double>(shapes.size());
      std::printf(" %15.2f %7.2fx", ms, eigen / ms);
    }
    std::printf("\n");
  }
  std::printf("%22s %9s", "geometric mean", "");
  for (const double l : logs) std::printf(" %23.2fx", std::exp(l));
  std::printf("\n%s\n", wrong ? "WRONG RESULTS" : "all results are right");
  return wrong != 0;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    if (argc > 2) set_num_threads(std::atoi(argv[2]));
    return bench(argc > 1 ? std::max(1, std::atoi(argv[1])) : 9);
  } catch (const std::exception& e) {
    std::fprintf(stderr, "%s\n", e.what());
    return 1;
  }
}
