// Reductions. Sums, maxima, sums of squares and column sums fold in the CPU's order and are
// bit-equal to it; cumsum has an order of its own and is compared where sums are exact, or within a
// bound.
#include "tests/cuda/number_checks.h"
#include "tests/tensor_testing.h"

using namespace nibble;
using namespace nibble::testing;

namespace {

constexpr DType kBoth[] = {DType::F32, DType::BF16};

// [outer, n, inner], reduced over n. Around lanes of 32, short rows of 1024, pieces of 16384, bands
// of 512 rows and tiles of 64 columns; rows off 16 bytes; long, wide and many.
const std::vector<Shape> kShapes{
    {1, 1, 1},      {5, 31, 1},     {7, 33, 1},     {9, 8, 1},       {1, 1024, 1},  {3, 1025, 1},
    {2, 4096, 1},   {2, 16384, 1},  {3, 16385, 1},  {2, 40000, 1},   {700, 768, 1}, {65, 1601, 1},
    {3000, 3, 1},   {1, 700001, 1}, {4, 0, 1},      {0, 5, 1},       {1, 1, 3},     {1, 5, 2},
    {2, 0, 3},      {1, 513, 7},    {2, 512, 64},   {3, 1030, 65},   {1, 4099, 96}, {1, 20003, 3},
    {1, 2051, 768}, {32, 12, 64},   {1, 19, 40000}, {1, 3, 1 << 19}, {5, 16, 72},   {2, 100, 130}};

// x as `shape`, beginning `skip` elements into a tensor that holds them all.
Tensor as(const Tensor& flat, const Shape& shape, std::int64_t skip = 0) {
  return flat.slice(0, skip, skip + shape.numel()).view(shape);
}

template <class F>
void check_reduction(const std::string& name, const Tensor& flat, F&& f) {
  for (const DType dtype : kBoth)
    for (const Shape& shape : kShapes)
      for (const std::int64_t skip : {0, 1}) {
        if (name != "sum" && shape[1] == 0) continue;
        in_lockstep(
            {flat.slice(0, 0, shape.numel() + skip).to(dtype)},
            [&](const std::vector<Tensor>& in) { return std::vector{f(as(in[0], shape, skip))}; },
            [&](const Tensor& cpu, const Tensor& gpu) {
              const std::string what = fmt::format("{} of {} from {}", name, shape, skip);
              if (cpu.dtype() == DType::I32)
                check_bits(cpu, gpu, what);
              else
                check_numbers(cpu, gpu, what);
            });
      }
}

std::int64_t largest() {
  std::int64_t n = 0;
  for (const Shape& s : kShapes) n = std::max(n, s.numel());
  return n + 1;
}

// Inputs [0] and bias or gradient [1]; the result lies in a larger buffer whose rest must stay.
void check_column_sum(const Shape& shape, DType narrow, DType wide, bool accumulate) {
  in_lockstep(
      {uniform(shape, narrow), uniform({shape[1] + 6}, wide)},
      [&](const std::vector<Tensor>& in) {
        Tensor buffer = in[1].clone();
        Tensor db = buffer.slice(0, 3, 3 + shape[1]);
        NIBBLE_DISPATCH(db.device(), column_sum(db, in[0], accumulate));
        return std::vector{buffer};
      },
      [&](const Tensor& cpu, const Tensor& gpu) {
        check_bits(cpu, gpu, fmt::format("{} {} into {}", shape, narrow, wide));
      });
}

}  // namespace

GPU_TEST("cuda reduce: sums have the CPU's bits") {
  check_reduction("sum", uniform({largest()}), [](const Tensor& x) { return ops::sum(x, {1}); });
}

GPU_TEST("cuda reduce: maxima and their places have the CPU's bits on every kind of number") {
  const Tensor any = any_floats({largest()});
  // Few values: equals, zeros of both signs, rarely a NaN.
  std::vector<float> few = uniform({largest()}, DType::F32, -3, 3).to_vector();
  for (std::size_t i = 0; i < few.size(); ++i) few[i] = i % 5003 == 77 ? NAN : std::trunc(few[i]);
  for (const Tensor& x : {any, Tensor::from(few, {largest()}), uniform({largest()})}) {
    check_reduction("max", x, [](const Tensor& t) { return ops::max(t, {1}); });
    check_reduction("argmax", x, [](const Tensor& t) { return ops::argmax(t, 1); });
  }
}

GPU_TEST("cuda reduce: infinities and NaN pass through sums") {
  std::vector<float> v(5000, 1.0f);
  v[4000] = INFINITY;
  const auto total = [](const Tensor& x) { return ops::sum(x.to(kGpu)).to(kCpu).item(); };
  CHECK(total(Tensor::from(v, {5000})) == INFINITY);
  v[17] = -INFINITY;
  CHECK(std::isnan(total(Tensor::from(v, {5000}))));
}

GPU_TEST("cuda reduce: running sums are exact where sums are, and close elsewhere") {
  const std::vector<Shape> shapes{{1, 1, 1},     {3, 32, 1},   {3, 33, 1},      {2, 1024, 1},
                                  {2, 1025, 1},  {5, 2049, 1}, {1, 1200003, 1}, {300, 77, 1},
                                  {2, 256, 5},   {2, 257, 5},  {1, 70000, 3},   {40, 9, 100},
                                  {1, 5, 70001}, {0, 4, 1},    {1, 0, 4}};
  for (const Shape& shape : shapes) {
    const std::string what = fmt::format("cumsum of {}", shape);
    const auto scan = [&](const std::vector<Tensor>& in) {
      return std::vector{ops::cumsum(as(in[0], shape, 1), 1)};
    };
    // Integers: every partial sum is exact in f32, and bf16 rounds the same number.
    std::vector<float> whole = uniform({shape.numel() + 1}, DType::F32, -3, 3).to_vector();
    for (float& v : whole) v = std::trunc(v);
    for (const DType dtype : kBoth)
      in_lockstep({Tensor::from(whole, {shape.numel() + 1}).to(dtype)}, scan,
                  [&](const Tensor& cpu, const Tensor& gpu) { check_numbers(cpu, gpu, what); });
    // The CPU's serial sum of n positive terms is off by at most n · 2^-24 of itself.
    in_lockstep({uniform({shape.numel() + 1}, DType::F32, 0, 1)}, scan,
                [&](const Tensor& cpu, const Tensor& gpu) {
                  check_near(cpu, gpu, 1e-6 + static_cast<double>(shape[1]) * 6e-8, 1, what);
                });
  }
}

GPU_TEST("cuda reduce: sums of squares have the CPU's bits, and go on from a total") {
  for (const DType dtype : kBoth)
    for (const std::int64_t n : {0, 1, 5, 33, 1024, 1025, 16384, 16385, 100003, 1 << 21})
      for (const bool accumulate : {false, true})
        in_lockstep(
            {uniform({n + 1}, dtype), Tensor::full({1}, 0.1, DType::F64)},
            [&](const std::vector<Tensor>& in) {
              Tensor y = in[1].clone();
              NIBBLE_DISPATCH(y.device(), sum_squares(y, in[0].slice(0, 1, n + 1), accumulate));
              return std::vector{y};
            },
            [&](const Tensor& cpu, const Tensor& gpu) {
              check_bits(cpu, gpu, fmt::format("{} {} {}", dtype, n, accumulate));
            });
}

GPU_TEST("cuda reduce: one bad number is found wherever it stands") {
  const std::int64_t n = 1000003;
  for (const DType dtype : kBoth) {
    CHECK(ops::all_finite(Tensor::empty({0}, dtype, kGpu)));
    const Tensor largest = Tensor::full({n}, 3.3e38, dtype);
    CHECK(ops::all_finite(largest.to(kGpu).slice(0, 1, n)));
    for (const std::int64_t at : {std::int64_t{1}, std::int64_t{8}, n / 2, n - 1})
      for (const double bad : {NAN, INFINITY, -INFINITY}) {
        Tensor x = largest.clone();
        x.slice(0, at, at + 1).fill(bad);
        const Tensor there = x.to(kGpu);
        CHECK(!ops::all_finite(there));
        CHECK(!ops::all_finite(there.slice(0, 1, n)));
        CHECK(ops::all_finite(there.slice(0, 0, at)));
        CHECK(ops::all_finite(there.slice(0, at + 1, n)));
      }
  }
}

GPU_TEST("cuda reduce: column sums have the CPU's bits and write their columns only") {
  for (const Shape& shape : {Shape{1, 1},
                             {4, 5},
                             {513, 8},
                             {1030, 65},
                             {2048, 768},
                             {777, 3072},
                             {12, 50257},
                             {0, 7},
                             {3, 0},
                             {5000, 2}})
    for (const bool accumulate : {false, true}) {
      check_column_sum(shape, DType::F32, DType::F32, accumulate);
      check_column_sum(shape, DType::BF16, DType::F32, accumulate);
      check_column_sum(shape, DType::BF16, DType::BF16, accumulate);
    }
}

GPU_TEST("cuda reduce: add_bias has the CPU's bits and writes its rows only") {
  for (const DType dtype : kBoth)
    for (const Shape& shape : {Shape{1, 1},
                               {5, 3},
                               {70, 8},
                               {3, 33},
                               {1000, 768},
                               {257, 1600},
                               {64, 3072},
                               {9, 1001},
                               {0, 8},
                               {4, 0},
                               {100003, 4}})
      for (const std::int64_t skip : {0, 3, 8}) {
        const std::int64_t n = shape.numel();
        in_lockstep(
            {any_floats({n + 16}).to(dtype), any_floats({shape[1]}, 2).to(dtype)},
            [&](const std::vector<Tensor>& in) {
              Tensor buffer = in[0].clone();
              Tensor y = as(buffer, shape, skip);
              ops::add_bias(y, in[1]);
              return std::vector{buffer};
            },
            [&](const Tensor& cpu, const Tensor& gpu) {
              check_numbers(cpu, gpu, fmt::format("add_bias {} from {}", shape, skip));
            });
      }
}

GPU_TEST("cuda reduce: f64 is refused by name") {
  const Tensor x = Tensor::full({3, 4}, 1, DType::F64).to(kGpu);
  CHECK(error_of([&] { ops::sum(x); }).find("sum: got dtype f64 on a GPU") == 0);
  CHECK(error_of([&] { ops::argmax(x, 1); }).find("argmax: got dtype f64 on a GPU") == 0);
}
