// Elementwise kernels: bit-equal to the CPU wherever the formula is ours, on every kind of number,
// layout and size.
#include <functional>
#include <utility>

#include "tensor/activation_sums.h"
#include "tests/cuda/number_checks.h"

using namespace nibble;
using namespace nibble::testing;

namespace {

using Binary = Tensor (*)(const Tensor&, const Tensor&);
const std::pair<const char*, Binary> kBinaries[] = {
    {"add", ops::add},         {"sub", ops::sub},        {"mul", ops::mul},
    {"div", ops::div},         {"less", ops::less},      {"equal", ops::equal},
    {"maximum", ops::maximum}, {"minimum", ops::minimum}};
constexpr DType kFloats[] = {DType::F32, DType::BF16};

void compare(const Tensor& cpu, const Tensor& gpu, const std::string& what) {
  if (cpu.dtype() == DType::U8)
    check_bits(cpu, gpu, what);
  else
    check_numbers(cpu, gpu, what);
}

// f on the tensors as they are made of `x` and `y` by `layout`, which runs on either device.
using Layout = std::function<std::vector<Tensor>(const Tensor& x, const Tensor& y)>;
void check_binaries(const std::string& name, const Shape& a, const Shape& b, const Layout& layout) {
  for (const DType dtype : kFloats) {
    const std::vector<Tensor> inputs{any_floats(a, 1).to(dtype), any_floats(b, 2).to(dtype)};
    for (const auto& [op, f] : kBinaries)
      in_lockstep(
          inputs,
          [&](const std::vector<Tensor>& in) {
            const std::vector<Tensor> made = layout(in[0], in[1]);
            return std::vector<Tensor>{f(made[0], made[1])};
          },
          [&](const Tensor& cpu, const Tensor& gpu) { compare(cpu, gpu, name + " " + op); });
  }
}

struct Unary {
  const char* name;
  std::function<Tensor(const Tensor&)> f;
};
const std::vector<Unary>& exact_unaries() {
  static const std::vector<Unary> list = {
      {"abs", ops::abs},
      {"sign", ops::sign},
      {"neg", ops::neg},
      {"exp", ops::exp},
      {"sqrt", ops::sqrt},
      {"rsqrt", ops::rsqrt},
      {"tanh", ops::tanh},
      {"sigmoid", ops::sigmoid},
      {"erf", ops::erf},
      {"relu", ops::relu},
      {"silu", ops::silu},
      {"gelu tanh", [](const Tensor& x) { return ops::gelu(x, ops::Gelu::Tanh); }},
      {"gelu erf", [](const Tensor& x) { return ops::gelu(x, ops::Gelu::Erf); }},
      {"clamp", [](const Tensor& x) { return ops::clamp(x, -0.75, 1.25); }},
      {"affine", [](const Tensor& x) { return ops::affine(x, 1.7, -0.3); }}};
  return list;
}
void check_unary(const Unary& op, const Tensor& x) {
  in_lockstep(
      {x}, [&](const std::vector<Tensor>& in) { return std::vector<Tensor>{op.f(in[0])}; },
      [&](const Tensor& cpu, const Tensor& gpu) { check_numbers(cpu, gpu, op.name); });
}

}  // namespace

GPU_TEST("cuda elementwise: own formulas are bit-equal on every bf16 and on floats of all kinds") {
  const Tensor wide = any_floats({(1 << 20) + 3}), narrow = all_bf16();
  // Inside and across the range of fast_math.cuh, and to where sigmoid is subnormal.
  const Tensor usual = uniform({1 << 20}, DType::F32, -6, 6);
  const Tensor edge = uniform({1 << 20}, DType::F32, -11, 11);
  const Tensor far = uniform({1 << 20}, DType::F32, -110, 110);
  for (const Unary& op : exact_unaries())
    for (const Tensor& x : {wide, narrow, usual, edge, far}) check_unary(op, x);
}

// From 2^21 bf16 numbers on GELU looks its values up (gelu.cu), by vectors of which all are usual.
GPU_TEST("cuda elementwise: GELU by table is bit-equal on every bf16, both ways") {
  const Tensor all = all_bf16();
  constexpr std::int64_t kCopies = 32, kUsual = 8 * 70001;
  const std::int64_t n = kCopies * all.numel() + kUsual;
  Tensor x = Tensor::empty({n}, DType::BF16);
  for (std::int64_t i = 0; i < kCopies; ++i)
    x.slice(0, i * all.numel(), (i + 1) * all.numel()).copy_from(all);
  x.slice(0, n - kUsual, n).copy_from(uniform({kUsual}, DType::BF16, -9, 9));
  const Tensor dy = uniform({n}, DType::BF16, -3, 3, 2);
  // Whole vectors, fewer of them, what is no whole vectors, and whole ones off 16 bytes.
  for (const auto& [skip, end] : {std::pair{std::int64_t{0}, n}, {8, n}, {1, n}, {1, n - 7}})
    in_lockstep(
        {dy, x},
        [skip = skip, end = end](const std::vector<Tensor>& in) {
          const Tensor d = in[0].slice(0, skip, end), v = in[1].slice(0, skip, end);
          Tensor y = v.clone(), dx = d.clone();  // in place
          NIBBLE_DISPATCH(v.device(), gelu_tanh(y, y));
          NIBBLE_DISPATCH(v.device(), gelu_tanh_backward(dx, dx, v));
          return std::vector<Tensor>{ops::gelu(v), ops::gelu_backward(d, v, ops::Gelu::Tanh), y,
                                     dx};
        },
        [](const Tensor& cpu, const Tensor& gpu) { check_numbers(cpu, gpu); });
}

GPU_TEST("cuda elementwise: GELU's gradient and its sums have the bits of both kernels") {
  struct Sizes {
    std::int64_t rows, cols;
  };
  // The table's kernel: whole tiles of 64 rows and 256 columns, and fewer; few numbers; no vectors.
  for (const auto& [rows, cols] :
       {Sizes{4096, 768}, Sizes{2731, 776}, Sizes{300001, 8}, Sizes{513, 72}, Sizes{700, 3001}})
    for (const DType dtype : kFloats) {
      Tensor x = uniform({rows, cols}, dtype, -4, 4);
      x.slice(0, 64, 66).fill(0);
      x.slice(0, rows - 1, rows).fill(20);
      in_lockstep(
          {uniform({rows, cols}, dtype, -3, 3, 2), x},
          [](const std::vector<Tensor>& in) {
            const auto [dx, sums] = ops::gelu_backward_sums(in[0], in[1]);
            Tensor again = ops::gelu_backward(in[0], in[1], ops::Gelu::Tanh);
            Tensor sums_again = Tensor::empty(sums.shape(), DType::F32, sums.device());
            ops::column_sum_into(sums_again, again, false);
            return std::vector<Tensor>{dx, sums, again, sums_again};
          },
          [](const Tensor& cpu, const Tensor& gpu) { check_bits(cpu, gpu); });
    }
}

GPU_TEST("cuda elementwise: sizes around vectors and blocks, and addresses off 16 bytes") {
  const Unary gelu = exact_unaries()[11], relu = exact_unaries()[9];
  for (const DType dtype : kFloats)
    for (const std::int64_t n : {0, 1, 3, 4, 7, 8, 9, 255, 1024, 4095, 4096, 4097, 8191, 16385}) {
      const Tensor x = any_floats({n + 1}).to(dtype);
      for (const Unary& op : {gelu, relu}) {
        check_unary(op, x);
        check_unary({op.name, [&](const Tensor& t) { return op.f(t.slice(0, 1, n + 1)); }}, x);
      }
    }
}

// Both sides are within a few units of the last place of the exact value: glibc 1, CUDA 1 (log), 2
// (sin, cos) and 4 (pow); 6e-7 is 5 units. One bf16 rounding boundary may lie between them.
GPU_TEST("cuda elementwise: log, sin, cos and pow agree within units of the last place") {
  const std::vector<Unary> list = {{"log", ops::log},
                                   {"sin", ops::sin},
                                   {"cos", ops::cos},
                                   {"pow 3", [](const Tensor& x) { return ops::pow(x, 3); }},
                                   {"pow 0.37", [](const Tensor& x) { return ops::pow(x, 0.37); }}};
  const Tensor wide = any_floats({100003}), narrow = all_bf16();
  for (const Unary& op : list)
    for (const Tensor& x : {wide, narrow})
      in_lockstep(
          {x}, [&](const std::vector<Tensor>& in) { return std::vector<Tensor>{op.f(in[0])}; },
          [&](const Tensor& cpu, const Tensor& gpu) {
            check_near(cpu, gpu, x.dtype() == DType::F32 ? 6e-7 : 0.0079, 1e-37, op.name);
          });
}

GPU_TEST("cuda elementwise: backward forms are bit-equal") {
  for (const DType dtype : kFloats) {
    const Tensor x = dtype == DType::BF16 ? all_bf16() : any_floats({(1 << 20) + 5});
    const Tensor usual = uniform(x.shape(), dtype, -6, 6), far = uniform(x.shape(), dtype, -99, 99);
    const Tensor dy = uniform(x.shape(), dtype, -3, 3, 2);
    for (const Tensor& input : {x, usual, far})
      in_lockstep(
          {dy, input},
          [](const std::vector<Tensor>& in) {
            return std::vector<Tensor>{ops::silu_backward(in[0], in[1]),
                                       ops::gelu_backward(in[0], in[1], ops::Gelu::Tanh),
                                       ops::gelu_backward(in[0], in[1], ops::Gelu::Erf)};
          },
          [](const Tensor& cpu, const Tensor& gpu) { check_numbers(cpu, gpu); });
  }
}

GPU_TEST("cuda elementwise: binaries are bit-equal in every layout") {
  const auto same = [](const Tensor& x, const Tensor& y) { return std::vector<Tensor>{x, y}; };
  const auto swapped = [](const Tensor& x, const Tensor& y) { return std::vector<Tensor>{y, x}; };
  check_binaries("dense", {1 << 18}, {1 << 18}, same);
  check_binaries("dense, odd", {13, 7, 11}, {13, 7, 11}, same);
  check_binaries("empty", {0, 7}, {0, 7}, same);
  check_binaries("single", {1}, {1}, same);
  check_binaries("scalar", {1000}, {1}, same);
  check_binaries("scalar first", {1000}, {}, swapped);
  check_binaries("both scalars", {64, 32}, {1}, [](const Tensor& x, const Tensor& y) {
    return std::vector<Tensor>{x.select(0, 3).select(0, 5).expand({64, 32}), y};
  });
  check_binaries("row", {129, 768}, {768}, same);
  check_binaries("row, odd", {129, 77}, {77}, swapped);
  check_binaries("column", {129, 768}, {129, 1}, same);
  check_binaries("column, odd", {65, 33}, {65, 1}, swapped);
  check_binaries("outer product", {61, 1}, {64}, same);
  check_binaries("middle", {5, 1, 64}, {5, 9, 64}, same);
  check_binaries("transposed", {96, 80}, {80, 96}, [](const Tensor& x, const Tensor& y) {
    return std::vector<Tensor>{x, y.t()};
  });
  check_binaries("six dimensions", {2, 1, 3, 1, 5, 8}, {1, 3, 1, 2, 5, 1}, same);
  check_binaries("columns of a wider tensor", {40, 64}, {40, 200},
                 [](const Tensor& x, const Tensor& y) {
                   return std::vector<Tensor>{x, y.slice(1, 8, 72)};
                 });
  check_binaries("columns off 16 bytes", {40, 64}, {40, 200}, [](const Tensor& x, const Tensor& y) {
    return std::vector<Tensor>{x, y.slice(1, 3, 67)};
  });
}

GPU_TEST("cuda elementwise: where chooses bits") {
  for (const DType dtype : kFloats)
    for (const bool broadcast : {false, true}) {
      const Shape row = broadcast ? Shape{320} : Shape{70, 320};
      in_lockstep(
          {any_floats({70, 320}, 1), any_floats({70, 320}, 2).to(dtype),
           any_floats(row, 3).to(dtype)},
          [](const std::vector<Tensor>& in) {
            const Tensor mask = ops::less(in[0], Tensor::zeros({1}, DType::F32, in[0].device()));
            return std::vector<Tensor>{ops::where(mask, in[1], in[2]),
                                       ops::where(mask.slice(0, 1, 2), in[2], in[1])};
          },
          [](const Tensor& cpu, const Tensor& gpu) { check_bits(cpu, gpu); });
    }
}

GPU_TEST("cuda elementwise: axpy accumulates in place in the wider type") {
  const std::pair<DType, DType> pairs[] = {
      {DType::F32, DType::F32}, {DType::F32, DType::BF16}, {DType::BF16, DType::BF16}};
  for (const auto& [to, from] : pairs)
    for (const std::int64_t n : {1, 1000, 70001})
      in_lockstep(
          {uniform({n + 9}, to), uniform({n}, from, -1, 1, 2)},
          [n](const std::vector<Tensor>& in) {
            const Tensor whole = in[0].clone();  // what lies around must stay
            Tensor y = whole.slice(0, 8, n + 8);
            ops::axpy(y, in[1], 0.3);
            return std::vector<Tensor>{whole};
          },
          [](const Tensor& cpu, const Tensor& gpu) { check_bits(cpu, gpu); });
}

GPU_TEST("cuda elementwise: kernels write their output and nothing else") {
  for (const DType dtype : kFloats)
    for (const std::int64_t n : {1, 63, 4097})
      in_lockstep(
          {uniform({n}, dtype), uniform({n}, dtype, -2, 2, 2)},
          [=](const std::vector<Tensor>& in) {
            const Device device = in[0].device();
            std::vector<Tensor> out;
            for (const std::int64_t at : {16, 17}) {
              const Tensor whole = Tensor::full({n + 40}, 7, dtype, device);
              Tensor y = whole.slice(0, at, at + n);
              if (at == 16)
                NIBBLE_DISPATCH(device, mul(y, in[0], in[1]));
              else
                NIBBLE_DISPATCH(device, gelu_tanh(y, in[0]));
              out.push_back(whole);
            }
            return out;
          },
          [](const Tensor& cpu, const Tensor& gpu) { check_bits(cpu, gpu); });
}

GPU_TEST("cuda elementwise: f64 is refused with a word on where it works") {
  const Tensor x = Tensor::empty({4}, DType::F64, kGpu);
  CHECK_THROWS_WITH_AS(
      ops::exp(x), "exp: got dtype f64 on a GPU, expected f32 or bf16; f64 is for the CPU", Error);
}
