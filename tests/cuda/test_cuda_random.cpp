// Random draws and dropout: the same bits on both devices, from the key and the element alone.
#include "tensor/step_state.h"
#include "tests/cuda/number_checks.h"

using namespace nibble;
using namespace nibble::testing;

namespace {

// A step that lies where the kernels run.
struct Steps {
  StepState cpu{kCpu}, gpu{kGpu};
  explicit Steps(std::uint32_t step) {
    cpu.begin(step, 0);
    gpu.begin(step, 0);
  }
  RngKey key(Device device, std::uint64_t seed, std::uint32_t site) const {
    return {seed, site, (device.is_cuda() ? gpu : cpu).step_pointer()};
  }
};

template <class F>
void check_draws(F&& f) {
  in_lockstep(
      {Tensor::zeros({1})},
      [&](const std::vector<Tensor>& in) { return std::vector<Tensor>{f(in[0].device())}; },
      [](const Tensor& cpu, const Tensor& gpu) { check_bits(cpu, gpu); });
}

constexpr std::int64_t kMany = 100'000'000;

}  // namespace

GPU_TEST("cuda random: a hundred million normals have the CPU's bits") {
  check_draws([](Device d) {
    return Tensor::normal({kMany}, 0.02, 1.3, RngKey{77, 5}, DType::F32, d);
  });
}

GPU_TEST("cuda random: a hundred million uniforms have the CPU's bits") {
  check_draws([](Device d) {
    return Tensor::uniform({kMany}, -0.7, 1.9, RngKey{78, 6}, DType::F32, d);
  });
}

GPU_TEST("cuda random: odd sizes, ranges, seeds and steps") {
  const Steps steps(41);
  for (const std::int64_t n : {0, 1, 2, 3, 4, 5, 7, 1023, 1025, 70001})
    for (const std::uint64_t seed : {std::uint64_t{0}, ~std::uint64_t{0}, std::uint64_t{123}}) {
      check_draws([&](Device d) {
        return Tensor::normal({n}, -3, 0.5, steps.key(d, seed, 9), DType::F32, d);
      });
      check_draws([&](Device d) {
        return Tensor::uniform({n}, 1, 1.000001, steps.key(d, seed, 9), DType::F32, d);
      });
      check_draws([&](Device d) {
        return Tensor::uniform({n}, 2, 2, steps.key(d, seed, ~0u), DType::BF16, d);
      });
    }
}

GPU_TEST("cuda random: draws follow the step on the device") {
  StepState state(kGpu);
  const RngKey key{5, 6, state.step_pointer()};
  state.begin(1, 0);
  const Tensor first = Tensor::normal({1000}, 0, 1, key, DType::F32, kGpu);
  state.begin(2, 0);
  const Tensor second = Tensor::normal({1000}, 0, 1, key, DType::F32, kGpu);
  state.begin(1, 0);
  const Tensor again = Tensor::normal({1000}, 0, 1, key, DType::F32, kGpu);
  CHECK(bit_difference(first.to(kCpu), again).empty());
  CHECK_FALSE(bit_difference(first.to(kCpu), second).empty());
}

GPU_TEST("cuda random: draws and dropout write their output and nothing else") {
  const Steps steps(3);
  for (const DType dtype : {DType::F32, DType::BF16})
    for (const std::int64_t n : {1, 6, 8, 513, 70003})
      for (const std::int64_t at : {16, 17})
        in_lockstep(
            {uniform({n}, dtype)},
            [&](const std::vector<Tensor>& in) {
              const Device d = in[0].device();
              const Tensor drawn = Tensor::full({n + 40}, 7, DType::F32, d);
              const Tensor dropped = Tensor::full({n + 40}, 7, dtype, d);
              Tensor y = drawn.slice(0, at, at + n), z = dropped.slice(0, at, at + n);
              NIBBLE_DISPATCH(d, random_normal(y, 0, 1, steps.key(d, 1, 2)));
              NIBBLE_DISPATCH(d, dropout(z, in[0], 0.4, steps.key(d, 1, 3)));
              return std::vector<Tensor>{drawn, dropped};
            },
            [](const Tensor& cpu, const Tensor& gpu) { check_bits(cpu, gpu); });
}

GPU_TEST("cuda random: dropout has the CPU's bits at any p, dropped infinities are zero") {
  const Steps steps(9);
  for (const double p : {0.0, 1e-5, 0.1, 0.5, 0.9, 0.99999, 1.0})
    for (const DType dtype : {DType::F32, DType::BF16})
      in_lockstep(
          {any_floats({200003}).to(dtype)},
          [&](const std::vector<Tensor>& in) {
            return std::vector<Tensor>{ops::dropout(in[0], p, steps.key(in[0].device(), 4, 8))};
          },
          [](const Tensor& cpu, const Tensor& gpu) { check_numbers(cpu, gpu); });
}

GPU_TEST("cuda random: a hundred million dropout draws have the CPU's bits") {
  check_draws([](Device d) {
    return ops::dropout(Tensor::full({kMany}, 1, DType::BF16, d), 0.3, RngKey{79, 7});
  });
}
