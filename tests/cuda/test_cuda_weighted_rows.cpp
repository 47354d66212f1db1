// Rows with weights have the CPU's bits: the same ascending order, f32 sums, one rounding.
#include "quant/kernels.h"
#include "tests/cuda/number_checks.h"
#include "tests/quant_checks.h"

using namespace nibble;
using namespace nibble::testing;

namespace {

// Of `table` rows, with repeats; each seventh is none, as an ignored target is.
Tensor some_indices(std::int64_t n, std::int64_t table, bool all_one) {
  std::vector<std::int32_t> v;
  for (std::int64_t i = 0; i < n; ++i) {
    const auto draw = philox4x32_10(static_cast<std::uint32_t>(i), 0, 0, 0, 3).v[0];
    const auto row = all_one ? table - 1 : static_cast<std::int64_t>(draw % table);
    v.push_back(i % 7 == 3 ? -1 : static_cast<std::int32_t>(row));
  }
  return Tensor::from(v, {n});
}

void check_rows(std::int64_t n, std::int64_t table, std::int64_t cols, bool all_one = false) {
  const Tensor index = some_indices(n, table, all_one), weight = uniform({n}, DType::F32, -1, 1, 5);
  for (const bool scatters : {false, true}) {
    const std::int64_t rows = scatters ? n : table, out = scatters ? table : n;
    const Tensor values = uniform({rows, cols}, DType::F32, -1, 1, 2);
    const QTensor q = quantize(values, parse_spec("int8:row"));
    for (const DType to : {DType::F32, DType::BF16})
      for (const Tensor& x : {values, values.to(DType::BF16), q.payload()}) {
        const bool codes = x.dtype() == DType::I8;
        const std::string what =
            fmt::format("{} {} × {} of {}, {} from {}", scatters ? "scatter" : "gather", n, cols,
                        table, to, x.dtype());
        in_lockstep(
            {uniform({out, cols}, to, -1, 1, 7), index, weight, x, q.scales()},
            [&](const std::vector<Tensor>& in) {
              Tensor y = in[0].clone();
              const Tensor steps = codes ? in[4] : Tensor{};
              if (scatters)
                NIBBLE_DISPATCH(y.device(), quant_scatter_rows(y, in[1], in[2], in[3], steps));
              else
                NIBBLE_DISPATCH(y.device(), quant_gather_rows(y, in[1], in[2], in[3], steps));
              return std::vector<Tensor>{y};
            },
            [&](const Tensor& cpu, const Tensor& gpu) { check_bits(cpu, gpu, what); });
      }
  }
}

}  // namespace

GPU_TEST("cuda weighted rows: gathering and scattering have the CPU's bits") {
  check_rows(1, 1, 1);
  check_rows(33, 5, 7);
  check_rows(1000, 256, 70);
  check_rows(2049, 65535, 12);
  check_rows(2049, 65536, 12);
  check_rows(4096, 50304, 768);
  check_rows(3000, 50304, 64, true);
  check_rows(1000, 256, 70, true);  // all go to the row whose digits −1 has
  check_rows(2049, 65536, 12, true);
  check_rows(0, 5, 8);
}
