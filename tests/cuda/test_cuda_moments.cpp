// One update of moments as they are stored: codes and weights for gradients at every bound, of code
// books and of the kernel's own shortcuts.
#include <array>
#include <cmath>

#include "optim/cuda/state_code.h"
#include "optim/kernels.h"
#include "quant/qtensor.h"
#include "tests/cuda/lockstep.h"

using namespace nibble;
using namespace nibble::testing;

namespace {

// One update by a gradient, whose states the caller adds.
StoredUpdate update_of(const Tensor& weight, const Tensor& gradient) {
  return {.weight = weight.to(kGpu),
          .weight_scales = {},
          .weight_spec = {},
          .gradient = gradient.to(kGpu),
          .states = {},
          .group = {}};
}
void apply(const StoredUpdate& u, const AdamRule& rule, double lr = 0) {
  std::vector<StoredUpdate> all{u};
  StepState state(kGpu);
  state.begin(0, lr);
  const Tensor corrections = Tensor::full({2}, 1, DType::F32, kGpu);
  NIBBLE_DISPATCH(kGpu, adam_stored(all, rule, state.scalars(), corrections, RngKey{}));
}

// The kernel of two books: by β₁ = β₂ = 0 from fresh states, so that the moments are the gradient
// and its square.
void check_two_books(const Tensor& g, double lr, float epsilon, const QuantSpec& second) {
  const QuantSpec specs[] = {parse_spec("dyn8:group256"), second};
  const AdamRule rule{0, 0, epsilon};
  Tensor weight = uniform(g.shape(), DType::F32, -1, 1, 600);
  StoredUpdate u = update_of(weight, g);
  std::vector<QTensor> moments;
  for (const QuantSpec& spec : specs) {
    moments.push_back(quantize(Tensor::zeros(g.shape(), DType::F32, kGpu), spec));
    u.states.push_back(
        {.values = moments.back().payload(), .scales = moments.back().scales(), .spec = spec});
  }
  apply(u, rule, lr);

  Tensor m = Tensor::zeros(g.shape()), v = Tensor::zeros(g.shape());
  StepState state(kCpu);
  state.begin(0, lr);
  const Tensor corrections = Tensor::full({2}, 1);
  NIBBLE_DISPATCH(kCpu, adam(weight, m, v, g, rule, GroupRule{}, state.scalars(), corrections));
  check_bits_or_nan(weight, u.weight);
  for (std::size_t i = 0; i < 2; ++i) {
    const QTensor expected = quantize(i == 0 ? m : v, specs[i]);
    check_bits(expected.payload(), moments[i].payload());
    check_bits(expected.scales(), moments[i].scales());
  }
}

void check_two_books(const Tensor& g, double lr, float epsilon) {
  for (const char* second : {"dynu8:group256", "dynu8:group256:sr:recip"}) {
    CAPTURE(std::string(second));
    check_two_books(g, lr, epsilon, parse_spec(second));
  }
}

// The float `count` places above x, or below.
float neighbour(float x, int count) {
  for (; count > 0; --count) x = std::nextafter(x, INFINITY);
  for (; count < 0; ++count) x = std::nextafter(x, -INFINITY);
  return x;
}

}  // namespace

// Every bound of every code book with its neighbours, and a hundred million numbers: with β₁ = 0
// the first moment is the gradient, whose groups begin with their largest value.
GPU_TEST("cuda optim: codes of moments are those of the quantizer for any number") {
  for (const char* name : {"dyn8", "dynu8", "dyn4", "lin4u"}) {
    CAPTURE(std::string(name));
    const QuantSpec spec = parse_spec(fmt::format("{}:group256", name));
    const bool is_signed = spec.format.is_signed();
    for (std::uint32_t part = 0; part < 12; ++part) {
      if (part > 0 && !in_sample()) continue;
      constexpr std::int64_t kGroups = 1 << 13;
      Tensor x = uniform({kGroups, 256}, DType::F32, is_signed ? -1 : 0, 1, 300 + part);
      float* const p = x.data<float>();
      std::int64_t at = 0;
      const auto put = [&](float y) { p[at + at / 255 + 1] = y, ++at; };
      if (part == 0)
        for (const float bound : spec.format.book().bounds) {
          float low = bound, high = bound;
          put(bound);
          for (int i = 0; i < 3; ++i) {
            put(low = std::nextafter(low, -1.0f));
            put(high = std::nextafter(high, 1.0f));
          }
        }
      if (part % 2 == 1)  // every exponent alike
        for (std::int64_t i = 0; i < x.numel(); ++i)
          p[i] = std::ldexp(p[i], -static_cast<int>(i % 40));
      for (std::int64_t g = 0; g < kGroups; ++g) p[g * 256] = 1;
      const QTensor expected = quantize(x, spec);
      StoredUpdate u = update_of(Tensor::zeros(x.shape()), x);
      QTensor m = quantize(Tensor::zeros(x.shape(), DType::F32, kGpu), spec);
      u.states.push_back({.values = m.payload(), .scales = m.scales(), .spec = spec});
      u.states.push_back(
          {.values = Tensor::zeros(x.shape(), DType::F32, kGpu), .scales = {}, .spec = {}});
      apply(u, {0, 0.9f, 1e-8f});
      check_bits(expected.payload(), m.payload());
      check_bits(expected.scales(), m.scales());
    }
  }
}

// Groups of any largest value of either sign, with each bound's neighbours in both books; once with
// the weights at rest and once not, which takes the shortcut of moderate numbers.
GPU_TEST("cuda optim: codes of two books' moments are those of the quantizer for any number") {
  const QuantSpec specs[] = {parse_spec("dyn8:group256"), parse_spec("dynu8:group256")};
  for (std::uint32_t part = 0; part < 8; ++part) {
    if (part > 1 && !in_sample()) continue;
    CAPTURE(part);
    constexpr std::int64_t kGroups = 1 << 13;
    Tensor g = uniform({kGroups, 256}, DType::F32, -1, 1, 400 + part);
    const Tensor largest = uniform({kGroups}, DType::F32, 1, 2, 500 + part);
    float* const p = g.data<float>();
    for (std::int64_t i = 0; i < kGroups; ++i) {
      float* const group = p + i * 256;
      const float most =
          std::ldexp(largest.data<float>()[i], part / 2 % 2 ? static_cast<int>(i % 60) - 30 : 0);
      for (std::int64_t j = 1; j < 256; ++j) {
        const QuantSpec& spec = specs[i % 2];
        const float bound = spec.format.book().bounds[static_cast<std::size_t>(j - 1)];
        if (i % 3 == 2) {
          group[j] *= most;
          continue;
        }
        const int count = static_cast<int>(i / 6 % 5);
        group[j] =
            neighbour((i % 2 ? std::sqrt(bound) : bound) * most, i / 30 % 2 ? count : -count);
      }
      group[0] = i / 60 % 2 ? -most : most;
    }
    check_two_books(g, part % 2 ? 1e-3 : 0, 1e-8f);
  }
}

// A stochastic second moment: every value of the book, or where the element's draw decides between
// two, with its neighbours, under largest values of any size; zeros, and what is not finite.
GPU_TEST("cuda optim: stochastic codes of second moments are those of the quantizer") {
  const QuantSpec spec = parse_spec("dynu8:group256:sr:recip");
  REQUIRE(cuda::StateCode(spec).is_stochastic_book());  // else the general kernel serves
  constexpr std::int64_t kGroups = 1 << 13;
  Tensor g = uniform({kGroups, 256}, DType::F32, -1, 1, 800);
  float* const p = g.data<float>();
  const Draws16 draws(RngKey{}, 0);
  const auto value = [&](std::int64_t code) {
    return spec.format.value_of(static_cast<std::uint8_t>(code));
  };
  for (std::int64_t i = 0; i < kGroups; ++i) {
    float* const group = p + i * 256;
    const float most = std::ldexp(1 + 0.37f * group[1] * group[1], static_cast<int>(i % 110) - 55);
    for (std::int64_t j = 1; j < 256; ++j) {
      const auto draw = static_cast<float>(draws(static_cast<std::uint64_t>(i * 256 + j)));
      const float share = i % 3 == 1 ? (draw + 0.5f) / 65536 : 0.0f;
      const float root = std::sqrt(value(j - 1) + share * (value(j) - value(j - 1)));
      group[j] =
          i % 3 == 2 ? group[j] * most : neighbour(root * most, static_cast<int>(i / 3 % 9) - 4);
    }
    group[0] = most;
    if (i % 64 == 0) std::fill(group, group + 256, 0.0f);
    if (i % 64 == 17) group[i % 256] = INFINITY;
    if (i % 64 == 34) group[i % 256] = NAN;
    if (i % 64 == 51) group[i % 256] = 1e30f;  // whose square is not finite
  }
  check_two_books(g, 0, 1e-8f, spec);
}

// AdamVector's shortcut is for v of 2^-101 to 2^40 and dividends of 2^-90 to 2^60: one element of a
// lane's eight lies at a bound, or some places beside it, the others within.
GPU_TEST("cuda optim: weights at the bounds of moderate numbers have the CPU's bits") {
  struct Bound {
    float gradient, inside;
    double lr;
  };
  const std::array<Bound, 4> bounds{{{std::sqrt(0x1p-101f), 0x1p-40f, 1},
                                     {0x1p20f, 0x1p10f, 1},
                                     {0x1p-50f, 0x1p-40f, 0x1p-40},
                                     {0x1p10f, 0x1p5f, 0x1p50}}};
  for (const Bound& bound : bounds)
    for (const float epsilon : {0.0f, 1e-8f, 1.0f}) {
      CAPTURE(bound.gradient);
      CAPTURE(epsilon);
      Tensor g = uniform({64, 256}, DType::F32, 1, 2, 700);
      float* const p = g.data<float>();
      for (std::int64_t i = 0; i < g.numel(); ++i) p[i] *= i % 3 ? bound.inside : -bound.inside;
      for (std::int64_t lane = 0; lane < g.numel() / 8; ++lane) {
        const float at = neighbour(bound.gradient, static_cast<int>(lane % 17) - 8);
        if (lane / 8 % 4 != 3) p[lane * 8 + lane % 8] = lane % 2 ? at : -at;
      }
      check_two_books(g, bound.lr, epsilon);
    }
}
