// Encodings of all weights in one launch: the CPU's bits, which are those of quantize (tier:
// exact).
#include "optim/adam.h"
#include "optim/encodings.h"
#include "optim/kernels.h"
#include "tests/cuda/quant_inputs.h"

using namespace nibble;
using namespace nibble::testing;

namespace {

struct Sizes {
  std::int64_t rows, cols;
};
// Parts of patches at every edge, one patch, whole ones.
constexpr Sizes kSizes[] = {{16, 8},     {128, 64},   {144, 72},  {112, 200}, {384, 256},
                            {1600, 320}, {320, 1600}, {768, 768}, {2304, 48}};

// Codes and scales of x inside sentinels.
struct Place {
  Framed payload, scales;
};
Place place_for(const QuantSpec& spec, std::int64_t rows, std::int64_t cols, Device device) {
  return {framed({rows, cols}, spec.payload(), device, 0),
          framed(spec.scale_shape(rows, cols), DType::F32, device, 0)};
}

}  // namespace

GPU_TEST("cuda encodings: codes and scales of many weights have the CPU's bits") {
  const char* const kPairs[][2] = {{"int8:row:recip", "int8:row:recip"},
                                   {"int8:row", "int8:row"},
                                   {"int8:row", "int8:row:recip"},  // two launches
                                   {"int8:tensor:recip", "int8:tensor:recip"},
                                   {"int8:block128:recip", "int8:block128:recip"},
                                   {"int8:group128:recip", "int8:group256:recip"},
                                   {"e4m3:row:recip", "e4m3:row:recip"},
                                   {"e4m3:tensor", "e4m3:tensor"},
                                   {"e4m3:block128:recip", "e4m3:block128:recip"},
                                   {"uint4:row:floor1e-3", "int4:group64"},
                                   {"int8:row:absmax0.5:recip", "int8:col:absmax0.5:recip"}};
  for (const DType dtype : {DType::F32, DType::BF16}) {
    // All of them in one call, so that launches are full and lists long.
    std::vector<Tensor> inputs;
    std::vector<std::pair<QuantSpec, bool>> wanted;
    for (const auto& pair : kPairs)
      for (const Numbers kind : kNumbers)
        for (const Sizes& size : kSizes) {
          if (!in_sample()) continue;
          const Tensor x = numbers(kind, size.rows, size.cols, dtype);
          for (const bool transposed : {false, true}) {
            const QuantSpec spec = parse_spec(pair[transposed]);
            QTensor q = transposed ? QTensor::empty(spec, size.cols, size.rows)
                                   : QTensor::empty(spec, size.rows, size.cols);
            if (!encoding_refusal(x, {.value = q, .transposed = transposed}).empty()) continue;
            inputs.push_back(x);
            wanted.emplace_back(spec, transposed);
          }
        }
    REQUIRE(inputs.size() > 1);
    std::vector<Tensor> results[2];
    for (const Device device : {kCpu, kGpu}) {
      std::vector<Recoded> all;
      std::vector<Place> places;
      std::vector<Tensor>& out = results[device == kGpu];
      Tensor on_device;
      for (std::size_t i = 0; i < inputs.size(); ++i) {
        const auto& [spec, transposed] = wanted[i];
        // Both encodings of one weight are neighbours.
        if (i == 0 || inputs[i].raw() != inputs[i - 1].raw()) on_device = inputs[i].to(device);
        const std::int64_t rows = inputs[i].size(transposed ? 1 : 0),
                           cols = inputs[i].size(transposed ? 0 : 1);
        const Place& p = places.emplace_back(place_for(spec, rows, cols, device));
        all.push_back({on_device,
                       QTensor(p.payload.inner, p.scales.inner, {}, {}, spec, {rows, cols}),
                       transposed});
        out.push_back(p.payload.buffer), out.push_back(p.scales.buffer);
      }
      NIBBLE_DISPATCH(device, recode(all));
      NIBBLE_DISPATCH(device, recode(all));  // into what it wrote before
    }
    for (std::size_t i = 0; i < results[0].size(); ++i)
      check_bits(results[0][i], results[1][i],
                 fmt::format("{}{} of {}", to_string(wanted[i / 2].first),
                             wanted[i / 2].second ? " transposed" : "", describe(inputs[i / 2])));
  }
}

GPU_TEST("cuda encodings: copies of many weights have the CPU's bits") {
  std::vector<Tensor> from;
  for (const std::int64_t n : {1, 7, 8, 33, 768, 2048, 2049, 100'003})
    for (const std::int64_t offset : {0, 1}) from.push_back(displaced(any_floats({n}), offset));
  for (int i = 0; i < 1000; ++i) from.push_back(uniform({5}, DType::F32, -2, 2, 9));
  in_lockstep(
      from,
      [](const std::vector<Tensor>& in) {
        std::vector<Tensor> to, buffers;
        for (const Tensor& x : in) {
          const Framed f = framed(x.shape(), DType::BF16, x.device(), x.numel() % 3 == 1 ? 1 : 0);
          to.push_back(f.inner), buffers.push_back(f.buffer);
        }
        NIBBLE_DISPATCH(in.front().device(), cast_all(to, in));
        return buffers;
      },
      [](const Tensor& cpu, const Tensor& gpu) { check_bits(cpu, gpu); });
}

GPU_TEST("cuda encodings: an update leaves fresh ones, and a bad one the old") {
  const QuantSpec spec = parse_spec("int8:row:recip");
  std::vector<std::unique_ptr<Parameter>> own;
  std::vector<Parameter*> all;
  for (const Shape& shape : {Shape{768, 256}, Shape{300}, Shape{256, 1024}, Shape{50, 8}}) {
    own.push_back(std::make_unique<Parameter>(uniform(shape).to(kGpu)));
    own.back()->name = fmt::format("p{}", all.size());
    own.back()->grad_buffer().copy_from(uniform(shape, DType::F32, -1, 1, 7).to(kGpu));
    all.push_back(own.back().get());
  }
  AdamW adam({{all, 1, 0.1}}, AdamOptions{});
  StepState state(kGpu);
  for (std::uint32_t step = 0; step < 4; ++step) {
    const auto use = [&](const auto& look) {
      for (Parameter* p : all) {
        look(p->dense(DType::BF16), p->storage().to(DType::BF16));
        if (p->shape().rank() < 2) continue;
        for (const bool transposed : {false, true}) {
          const QTensor q = p->encoded(spec, transposed, {}),
                        expected = quantize(p->storage(), spec, {}, transposed);
          look(q.payload(), expected.payload()), look(q.scales(), expected.scales());
        }
      }
    };
    use([&](const Tensor& got, const Tensor& expected) { check_bits(expected.to(kCpu), got); });
    state.begin(step, 1e-2);
    if (step == 2) state.mark_bad();
    for (Parameter* p : all) p->set_has_grad(true);
    adam.step(state);
    state.clear_bad();
    CHECK(all[0]->forms().size() == 3);
    CHECK(all[3]->forms().size() == 1);  // 50 rows are no multiple of 16
  }
}
