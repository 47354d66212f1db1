// Copies, conversions and fills: bit-equal to the CPU for every pair of dtypes and every layout.
// Bodies return the whole buffer that they wrote into, so that a stray write shows.
#include <utility>

#include "tests/cuda/number_checks.h"

using namespace nibble;
using namespace nibble::testing;

namespace {

constexpr DType kTypes[] = {DType::F64, DType::F32, DType::BF16, DType::I32,
                            DType::U8,  DType::I8,  DType::E4M3, DType::E5M2};

// Of the given dtype, from floats of all kinds. An f64 NaN takes its payload from the unit that
// converted it, so f64 does without.
Tensor any_values(const Shape& shape, DType dtype, bool with_nan) {
  Tensor x = any_floats(shape);
  if (!with_nan)
    for (std::int64_t i = 0; i < x.numel(); ++i)
      if (float& v = x.data<float>()[i]; std::isnan(v)) v = static_cast<float>(i);
  return x.to(dtype);
}

using View = Tensor (*)(const Tensor&);
struct Layout {
  const char* name;
  Shape from, to;  // of the buffers
  View source, target;
};
Tensor itself(const Tensor& t) { return t; }

const std::vector<Layout>& layouts() {
  static const std::vector<Layout> list = {
      {"dense", {4099}, {4099}, itself, itself},
      {"single", {1}, {3}, itself, [](const Tensor& t) { return t.slice(0, 1, 2); }},
      {"off a vector",
       {4101},
       {4200},
       [](const Tensor& t) { return t.slice(0, 1, 4100); },
       [](const Tensor& t) { return t.slice(0, 3, 4102); }},
      {"transposed", {130, 71}, {71, 130}, [](const Tensor& t) { return t.t(); }, itself},
      {"transposed target", {64, 200}, {200, 64}, itself, [](const Tensor& t) { return t.t(); }},
      {"both transposed",
       {50, 60},
       {50, 60},
       [](const Tensor& t) { return t.t(); },
       [](const Tensor& t) { return t.t(); }},
      {"batch of transposes",
       {3, 33, 2, 65},
       {3, 2, 65, 33},
       [](const Tensor& t) {
         return t.permute({0, 2, 3, 1});
       },
       itself},
      {"thin transpose", {300, 3}, {3, 300}, [](const Tensor& t) { return t.t(); }, itself},
      {"transpose of a part",
       {90, 100},
       {60, 200},
       [](const Tensor& t) { return t.slice(0, 5, 85).slice(1, 7, 57).t(); },
       [](const Tensor& t) { return t.slice(0, 4, 54).slice(1, 30, 110); }},
      {"heads",
       {2, 19, 3, 4, 16},
       {2, 4, 19, 16},
       [](const Tensor& t) { return t.select(2, 1).transpose(1, 2); },
       itself},
      {"columns, 16 bytes",
       {37, 96},
       {37, 160},
       [](const Tensor& t) { return t.slice(1, 32, 64); },
       [](const Tensor& t) { return t.slice(1, 64, 96); }},
      {"columns, odd",
       {37, 97},
       {37, 150},
       [](const Tensor& t) { return t.slice(1, 3, 40); },
       [](const Tensor& t) { return t.slice(1, 11, 48); }},
      {"every third",
       {500, 3},
       {500, 2},
       [](const Tensor& t) { return t.select(1, 2); },
       [](const Tensor& t) { return t.select(1, 1); }},
      {"expanded rows",
       {77},
       {40, 77},
       [](const Tensor& t) {
         return t.expand({40, 77});
       },
       itself},
      {"expanded columns",
       {40, 1},
       {40, 64},
       [](const Tensor& t) {
         return t.expand({40, 64});
       },
       itself},
      {"six dimensions",
       {3, 2, 5, 4, 2, 3},
       {5, 3, 2, 4, 3, 2},
       [](const Tensor& t) {
         return t.permute({2, 5, 1, 3, 0, 4});
       },
       itself}};
  return list;
}

void check_copy(const Layout& layout, DType from, DType to) {
  const bool with_nan = from != DType::F64 && to != DType::F64;
  in_lockstep(
      {any_values(layout.from, from, with_nan)},
      [&](const std::vector<Tensor>& in) {
        const Tensor whole = Tensor::full(layout.to, 5, to, in[0].device());
        layout.target(whole).copy_from(layout.source(in[0]));
        return std::vector<Tensor>{whole};
      },
      [&](const Tensor& cpu, const Tensor& gpu) {
        check_bits(cpu, gpu, fmt::format("{}, {} to {}", layout.name, from, to));
      });
}

}  // namespace

GPU_TEST("cuda copy: every pair of dtypes converts with the same bits in every layout") {
  for (const Layout& layout : layouts())
    for (const DType from : kTypes)
      for (const DType to : kTypes) check_copy(layout, from, to);
}

GPU_TEST("cuda copy: large dense, transposed and converted tensors") {
  const std::pair<DType, DType> pairs[] = {{DType::F32, DType::F32},  {DType::F32, DType::BF16},
                                           {DType::BF16, DType::F32}, {DType::BF16, DType::BF16},
                                           {DType::I8, DType::I8},    {DType::I32, DType::F32}};
  const Layout dense{"dense", {1537, 1025}, {1537, 1025}, itself, itself};
  const Layout transposed{
      "transposed", {1537, 1025}, {1025, 1537}, [](const Tensor& t) { return t.t(); }, itself};
  for (const auto& [from, to] : pairs)
    for (const Layout& layout : {dense, transposed}) check_copy(layout, from, to);
}

GPU_TEST("cuda copy: every bf16 and every fp8 converts with the same bits") {
  const auto all_codes = [](DType fp8) {
    Tensor x = Tensor::empty({256}, fp8);
    for (int i = 0; i < 256; ++i) x.raw()[i] = static_cast<std::byte>(i);
    return x;
  };
  in_lockstep(
      {all_bf16(), all_codes(DType::E4M3), all_codes(DType::E5M2)},
      [](const std::vector<Tensor>& in) {
        std::vector<Tensor> out;
        for (const DType to : {DType::F32, DType::E4M3, DType::E5M2, DType::I8, DType::I32})
          for (const Tensor& x : in) out.push_back(x.to(to));
        return out;
      },
      [](const Tensor& cpu, const Tensor& gpu) { check_bits(cpu, gpu); });
}

GPU_TEST("cuda copy: packed codes move whole") {
  Tensor x = Tensor::empty({30, 34}, DType::U4x2);
  for (std::int64_t i = 0; i < x.bytes(); ++i) x.raw()[i] = static_cast<std::byte>(i * 37);
  in_lockstep(
      {x}, [](const std::vector<Tensor>& in) { return std::vector<Tensor>{in[0].clone()}; },
      [](const Tensor& cpu, const Tensor& gpu) { check_bits(cpu, gpu); });
  Tensor y = Tensor::empty({30, 34}, DType::U4x2, kGpu);
  CHECK_THROWS_AS(y.copy_from(Tensor::empty({30, 34}, DType::U8, kGpu)), Error);
}

GPU_TEST("cuda copy: fill has the same bits for every dtype, value and layout") {
  constexpr double kInf = std::numeric_limits<double>::infinity();
  const double values[] = {0, 1, -1, 0.1, -0.0, 300, -7.5, 1e300, kInf, -kInf, std::nan("")};
  const std::pair<Shape, View> targets[] = {
      {{4099}, itself},
      {{1}, itself},
      {{4200}, [](const Tensor& t) { return t.slice(0, 1, 4100); }},
      {{70, 96}, [](const Tensor& t) { return t.slice(1, 32, 64); }},
      {{70, 97}, [](const Tensor& t) { return t.slice(1, 1, 4); }},
      {{70, 64}, [](const Tensor& t) { return t.t().slice(0, 3, 60); }},
      {{70, 5}, [](const Tensor& t) { return t.select(1, 2); }}};
  for (const DType dtype : kTypes)
    for (const double value : values)
      for (const auto& [shape, target] : targets)
        in_lockstep(
            {Tensor::zeros(shape, dtype)},
            [&, &f = target](const std::vector<Tensor>& in) {
              const Tensor whole = in[0].clone();
              f(whole).fill(value);
              return std::vector<Tensor>{whole};
            },
            [&](const Tensor& cpu, const Tensor& gpu) {
              check_bits(cpu, gpu, fmt::format("{} of {}", value, dtype));
            });
}

GPU_TEST("cuda copy: what cannot be written is refused as on the CPU") {
  Tensor wide = Tensor::zeros({4, 1}, DType::F32, kGpu).expand({4, 3});
  CHECK_THROWS_WITH_AS(
      wide.fill(1),
      "fill: cannot write into an expanded view: f32[4, 3] on cuda:0 with strides [1, 0]", Error);
  CHECK_THROWS_AS(wide.copy_from(Tensor::zeros({4, 3}, DType::F32, kGpu)), Error);
  Tensor packed = Tensor::zeros({4, 2}, DType::U4x2, kGpu);
  CHECK_THROWS_AS(packed.fill(16), Error);
  packed.fill(9);
  CHECK(static_cast<int>(packed.to(kCpu).raw()[3]) == 0x99);
  Tensor none = Tensor::empty({0, 3}, DType::BF16, kGpu);
  none.fill(1);
  CHECK(none.to(DType::F32).numel() == 0);
}

// 6.4 GB: element numbers and offsets pass 2^31 in the source, the target and the fill.
GPU_TEST("cuda copy: spaces past 2^31 elements") {
  constexpr std::int64_t kN = (std::int64_t{1} << 31) + 100;
  Tensor pairs = Tensor::empty({kN, 2}, DType::U8, kGpu);
  pairs.select(1, 0).fill(7);
  pairs.select(1, 1).fill(9);
  Tensor y = Tensor::empty({kN}, DType::U8, kGpu);
  y.copy_from(pairs.select(1, 1));
  for (const std::int64_t at :
       {std::int64_t{0}, kN / 2 - 50, (std::int64_t{1} << 31) - 50, kN - 100}) {
    const std::vector<std::uint8_t> p =
        pairs.slice(0, at, at + 100).to(kCpu).to_vector<std::uint8_t>();
    const std::vector<std::uint8_t> q = y.slice(0, at, at + 100).to(kCpu).to_vector<std::uint8_t>();
    for (std::size_t i = 0; i < 100; ++i) {
      REQUIRE(p[2 * i] == 7);
      REQUIRE(p[2 * i + 1] == 9);
      REQUIRE(q[i] == 9);
    }
  }
}
