// A hundred million inputs of every format, code by code: the GPU's bits are the CPU's. A program
// of its own, because sanitizers would need hours. Tier: exact.
#include "optim/adam.h"
#include "optim/kernels.h"
#include "quant/kernels.h"
#include "tests/cuda/lockstep.h"
#include "tests/quant_checks.h"
#include "tests/tensor_testing.h"

using namespace nibble;
using namespace nibble::testing;
using quant_checks::kKey;

namespace {

constexpr std::uint32_t kChunks = 6;  // of 2^24 numbers
const Shape kChunk{1 << 13, 1 << 11};

// Bells; cubes of bells whose rows differ in size by up to 2^48; multiples of a half.
Tensor chunk(std::uint32_t i, DType dtype = DType::F32, const Shape& shape = kChunk) {
  Tensor x = Tensor::normal(shape, 0, 1, RngKey{31, i});
  if (i % 3 == 1) {
    const Tensor exponent = Tensor::uniform({shape[0], 1}, -17, 17, RngKey{32, i});
    x = ops::mul(ops::mul(x, ops::mul(x, x)), ops::exp(exponent));
  }
  if (i % 3 == 2) x = ops::affine(ops::affine(x, 8).to(DType::I32).to(DType::F32), 0.5);
  return x.to(dtype);
}

template <class F>
void for_each_chunk(F&& f) {
  for (std::uint32_t i = 0; i < kChunks; ++i) {
    CAPTURE(i);
    f(i);
  }
}

// Codes, scales, zero points and global scale; then the values.
void check_quantizer(const Tensor& x, const Tensor& there, const QuantSpec& spec,
                     bool transposed = false) {
  CAPTURE(to_string(spec));
  const QTensor cpu = quantize(x, spec, kKey, transposed),
                gpu = quantize(there, spec, kKey, transposed);
  const auto check = [](const char* what, const Tensor& c, const Tensor& g) {
    REQUIRE(c.defined() == g.defined());
    if (c.defined()) check_bits(c, g, what);
  };
  check("codes", cpu.payload(), gpu.payload());
  check("scales", cpu.scales(), gpu.scales());
  check("zeros", cpu.zeros(), gpu.zeros());
  check("global scale", cpu.global_scale(), gpu.global_scale());
  check("values", dequantize(cpu), dequantize(gpu));
}

void check_specs(const std::vector<std::string>& specs, DType dtype = DType::F32,
                 bool transposed = false) {
  for_each_chunk([&](std::uint32_t i) {
    const Tensor x = chunk(i, dtype), there = x.to(kGpu);
    for (const std::string& text : specs) check_quantizer(x, there, parse_spec(text), transposed);
  });
}

std::vector<std::string> formats() {
  std::vector<std::string> all;
  for (int bits = 2; bits <= 8; ++bits)
    for (const char* kind : {"int", "uint"}) all.push_back(fmt::format("{}{}", kind, bits));
  for (const char* name :
       {"e4m3", "e5m2", "e2m1", "e2m3", "e3m2", "dyn8", "dynu8", "dyn4", "lin4u"})
    all.emplace_back(name);
  return all;
}

std::vector<std::string> with(const std::string& options) {
  std::vector<std::string> all = formats();
  for (std::string& spec : all) spec += options;
  return all;
}

const std::vector<std::string> kOptions{"int8:asym:group128",         "uint8:asym:group128",
                                        "uint4:asym:packed:group128", "int4:packed:group128",
                                        "e2m1:packed:group128",       "dyn4:packed:sr:group128"};
const std::vector<std::string> kTraining{"int8:row", "int8:row:sr:recip", "int8:block128",
                                         "int8:tensor", "int8:col"};
const std::vector<std::string> kTransposed{"int8:group128", "int8:group256:sr:recip", "int8:row"};
// A scale for every number: as many scales as codes.
const std::vector<std::string> kScales{
    "int8:tile1x1",          "int8:tile1x1:bf16",  "int8:tile1x1:pow2",         "e4m3:tile1x1:e8m0",
    "e2m1:tile1x1:twolevel", "uint8:asym:tile1x1", "int6:asym:tile1x1:twolevel"};

}  // namespace

// Without a GPU: a quarter of a million numbers a spec, on one thread and on several.
TEST_CASE("cuda long: the CPU's half has the same bits on any number of threads") {
  const ThreadsGuard guard;
  for (const auto& specs : {with(":group128"), with(":recip:group128"), with(":sr:group128"),
                            kOptions, kTraining, kTransposed, kScales})
    for (const std::string& text : specs) {
      CAPTURE(text);
      for (std::uint32_t i = 0; i < 3; ++i) {
        const Tensor x = chunk(i, DType::F32, {384, 256});
        set_num_threads(1);
        const QTensor one = quantize(x, parse_spec(text), kKey);
        const Tensor values = dequantize(one);
        set_num_threads(4);
        const QTensor four = quantize(x, parse_spec(text), kKey);
        CHECK(quant_checks::same(one, four));
        CHECK(same_bits(values, dequantize(four)));
      }
    }
}

GPU_TEST("cuda long: codes, scales and values of every format") { check_specs(with(":group128")); }

GPU_TEST("cuda long: codes of every format by reciprocals, from bf16") {
  check_specs(with(":recip:group128"), DType::BF16);
}

GPU_TEST("cuda long: stochastic codes of every format") { check_specs(with(":sr:group128")); }

GPU_TEST("cuda long: zero points, packed codes, and the runs of training") {
  check_specs(kOptions);
  check_specs(kTraining, DType::BF16);
  check_specs(kTransposed, DType::BF16, true);
}

GPU_TEST("cuda long: scales of every kind, one for every number") { check_specs(kScales); }

GPU_TEST("cuda long: dropped elements, and dropped probabilities of attention") {
  for_each_chunk([](std::uint32_t i) {
    const Tensor x = chunk(i), there = x.to(kGpu);
    const RngKey key{79, 10 + i};
    check_bits(ops::dropout(x, 0.1, key), ops::dropout(there, 0.1, key), "dropout");
    // Equal scores and a unit matrix of values: the output is the mask.
    constexpr std::int64_t kKeys = 128;
    Tensor unit = Tensor::zeros({kKeys, kKeys});
    for (std::int64_t k = 0; k < kKeys; ++k) unit.data<float>()[k * kKeys + k] = 1;
    const Shape shape{64, kKeys, 16, kKeys};
    const auto mask = [&](Device device) {
      const Tensor zero = Tensor::zeros({1}, DType::BF16, device);
      const Tensor scores = Tensor::zeros(shape, DType::BF16, device);
      const Tensor values =
          ops::contiguous(unit.to(DType::BF16).to(device).view({1, kKeys, 1, kKeys}).expand(shape));
      const AttentionOptions options{.scale = 1, .causal = false, .dropout = 0.1, .key = key};
      return ops::equal(ops::attention(scores, scores, values, options).out, zero);
    };
    check_bits(mask(kCpu), mask(kGpu), "attention");
  });
}

GPU_TEST("cuda long: moments and updates of AdamW and SGD, weights rounded to bf16") {
  for_each_chunk([](std::uint32_t i) {
    const Tensor w = chunk(3 * i), gradient = chunk(3 * i + 1);
    const Tensor m = Tensor::normal(kChunk, 0, 1e-3, RngKey{33, i}),
                 v = Tensor::uniform(kChunk, 0, 1e-4, RngKey{34, i});
    const auto same = [](const Tensor& cpu, const Tensor& gpu) { check_bits(cpu, gpu); };
    for (const DType dtype : {DType::F32, DType::BF16})
      in_lockstep(
          {w, m, v, gradient.to(dtype), Tensor::from(std::vector{1.5f, 2.5f}, {2})},
          [&](const std::vector<Tensor>& x) {
            Tensor weight = x[0].clone(), first = x[1].clone(), second = x[2].clone();
            StepState state(weight.device());
            state.begin(i, 3e-4);
            state.set_clip(0.7);
            NIBBLE_DISPATCH(weight.device(),
                            adam(weight, first, second, x[3], AdamRule{0.9f, 0.95f, 1e-8f},
                                 GroupRule{1, 0.1}, state.scalars(), x[4]));
            return std::vector<Tensor>{weight, first, second};
          },
          same);
    in_lockstep(
        {w, m, gradient},
        [&](const std::vector<Tensor>& x) {
          Tensor weight = x[0].clone(), first = x[1].clone();
          StepState state(weight.device());
          state.begin(i, 3e-2);
          state.set_clip(0.7);
          NIBBLE_DISPATCH(weight.device(),
                          sgd(weight, first, x[2], SgdRule{.momentum = 0.9f, .nesterov = true},
                              GroupRule{1, 0.1}, state.scalars()));
          return std::vector<Tensor>{weight, first};
        },
        same);
    in_lockstep(
        {gradient},
        [&](const std::vector<Tensor>& x) {
          Tensor y = Tensor::empty(kChunk, DType::BF16, x[0].device());
          NIBBLE_DISPATCH(y.device(), stochastic_bf16(y, x[0], RngKey{5, i}));
          return std::vector<Tensor>{y};
        },
        same);
  });
}

GPU_TEST("cuda long: encoded moments and stored weights over two updates") {
  struct Case {
    const char *weights, *m, *v;
  };
  for (const Case& c : {Case{"f32", "f32", "f32"}, Case{"bf16", "bf16", "bf16"},
                        Case{"int8", "dyn8:group256", "dynu8:group256"},
                        Case{"f32", "dyn8:group256", "dynu8:group256:sr:recip"},
                        Case{"f32", "int8:group128", "uint8:sr:group128"},
                        Case{"f32", "int4:packed:group128", "lin4u:packed:group128"},
                        Case{"f32", "sim(dyn8:group256)", "sim(dynu8:group256)"}})
    for_each_chunk([&](std::uint32_t i) {
      CAPTURE(c.weights);
      CAPTURE(c.m);
      const Tensor weight = chunk(i);
      std::vector<std::vector<std::pair<std::string, Tensor>>> ends;
      for (const Device device : {kCpu, kGpu}) {
        Parameter p(weight.to(device).clone());
        p.name = std::string(1, 'w');  // g++ 12 warns falsely about a literal
        if (c.weights == std::string_view("bf16")) set_weight_storage(p, DType::BF16);
        if (c.weights == std::string_view("int8")) set_weight_storage_int8(p);
        AdamOptions options;
        options.m.codec = find_codec(c.m);
        options.v.codec = find_codec(c.v);
        AdamW adam({{{&p}, 1, 0.1}}, options);
        StepState state(device);
        for (std::uint32_t step = 0; step < 2; ++step) {
          state.begin(step, 1e-2);
          p.grad_buffer().copy_from(
              Tensor::normal(kChunk, 0, 1e-2, RngKey{35, 2 * i + step}).to(device));
          p.set_has_grad(true);
          adam.step(state);
        }
        auto tensors = adam.state_tensors();
        tensors.emplace_back("weight", p.dense());
        ends.push_back(tensors);
      }
      REQUIRE(ends[0].size() == ends[1].size());
      for (std::size_t k = 0; k < ends[0].size(); ++k)
        check_bits(ends[0][k].second, ends[1][k].second, ends[0][k].first);
    });
}
