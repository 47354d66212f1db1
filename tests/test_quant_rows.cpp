// Rows with weights against f64, on the CPU.
#include "quant/kernels.h"
#include "tests/quant_checks.h"

using namespace nibble;

TEST_CASE("quant: rows with weights, gathered and scattered") {
  constexpr std::int64_t kTable = 40, kTokens = 300, kCols = 67;
  std::vector<std::int32_t> to;
  for (std::int32_t i = 0; i < kTokens; ++i) to.push_back(i % 7 == 3 ? -1 : i * i % kTable);
  const Tensor index = Tensor::from(to, {kTokens});
  const Tensor weight = Tensor::normal({kTokens}, 0, 1, RngKey{1, 2});
  for (const bool codes : {false, true})
    for (const bool scatters : {false, true}) {
      CAPTURE(codes);
      CAPTURE(scatters);
      const std::int64_t rows = scatters ? kTokens : kTable, out = scatters ? kTable : kTokens;
      const Tensor values = Tensor::normal({rows, kCols}, 0, 1, RngKey{3, 4});
      const QTensor q = quantize(values, parse_spec("int8:row"));
      const std::vector<double> x = (codes ? dequantize(q) : values).to_vector<double>(),
                                w = weight.to_vector<double>();
      const Tensor start = Tensor::normal({out, kCols}, 0, 1, RngKey{5, 6});
      std::vector<double> expected = start.to_vector<double>();
      for (std::size_t i = 0; i < to.size(); ++i)
        for (std::size_t c = 0; to[i] >= 0 && c < kCols; ++c) {
          const auto row = static_cast<std::size_t>(to[i]);
          if (scatters)
            expected[row * kCols + c] += w[i] * x[i * kCols + c];
          else
            expected[i * kCols + c] += w[i] * x[row * kCols + c];
        }
      for (const DType dtype : {DType::F64, DType::F32, DType::BF16}) {
        CAPTURE(dtype);
        Tensor y = start.to(dtype).clone();
        const Tensor& from = codes ? q.payload() : values;
        const Tensor steps = codes ? q.scales() : Tensor{};
        (scatters ? cpu::quant_scatter_rows : cpu::quant_gather_rows)(y, index, weight, from,
                                                                      steps);
        double worst = 0;
        const std::vector<double> got = y.to_vector<double>();
        for (std::size_t k = 0; k < got.size(); ++k)
          worst = std::max(worst, std::abs(got[k] - expected[k]) / (1 + std::abs(expected[k])));
        // bf16: what it starts from and the sum are rounded.
        CHECK(worst < (dtype == DType::BF16 ? 0.008 : 2e-6));
      }
    }
}
