// Codes and values on the GPU: the CPU's bits, for every format, tile, rounding and kind of number.
#include "quant/codec.h"
#include "tests/cuda/quant_inputs.h"

using namespace nibble;
using namespace nibble::testing;
using quant_checks::kKey;

namespace {

// Codes, scales, zero points and global scale of both devices; then their values and x's.
void check_quantizer(const Tensor& x, const QuantSpec& spec, bool transposed = false) {
  CAPTURE(to_string(spec));
  CAPTURE(describe(x));
  in_lockstep(
      {x},
      [&](const std::vector<Tensor>& in) {
        const QTensor q = quantize(in[0], spec, kKey, transposed);
        return std::vector<Tensor>{q.payload(), q.scales(), q.zeros(), q.global_scale()};
      },
      [](const Tensor& cpu, const Tensor& gpu) { check_bits(cpu, gpu); });
  in_lockstep(
      {x},
      [&](const std::vector<Tensor>& in) {
        const QTensor q = quantize(in[0], spec, kKey, transposed);
        return std::vector<Tensor>{dequantize(q, DType::F32), dequantize(q, DType::BF16),
                                   transposed ? Tensor() : fake_quantize(in[0], spec, kKey)};
      },
      [](const Tensor& cpu, const Tensor& gpu) { check_numbers(cpu, gpu); });
}

// Every format and option once; tiles vary elsewhere.
std::vector<QuantSpec> formats(const std::string& tile) {
  std::vector<QuantSpec> all;
  for (const char* format :
       {"int2",      "int3",    "int4",       "int5",    "int6",    "int7",     "int8",
        "uint2",     "uint4",   "uint7",      "uint8",   "e4m3",    "e5m2",     "e2m1",
        "e2m3",      "e3m2",    "dyn8",       "dynu8",   "dyn4",    "lin4u",    "int4:packed",
        "int8:asym", "e5m2:sr", "uint8:asym", "int8:sr", "dyn8:sr", "dynu8:sr", "uint3:asym:sr"})
    for (const char* scaling : {"", ":recip"})
      all.push_back(parse_spec(std::string(format) + scaling + ":" + tile));
  return all;
}

}  // namespace

TEST_CASE("cuda quant: quotients by a reciprocal and remainders are divisions") {
  for (std::uint32_t i = 0; i < 1 << 21; ++i) {
    const Philox p = philox4x32_10(i, 0, 3, 0, 9);
    // Exponents that the function is meant for, and near ties every other time.
    const float d = std::ldexp(1 + uniform01(p.v[0]), static_cast<int>(p.v[1] % 128) - 64);
    float x = std::ldexp(1 + uniform01(p.v[2]), static_cast<int>(p.v[3] % 160) - 98);
    if (i % 2 == 0) x = d * (static_cast<float>(p.v[2] % 512) - 255.5f);
    if (!codec::quotient_divides(d) || !(std::fabs(x) >= 0x1p-100f && std::fabs(x) <= 0x1p63f))
      continue;
    if (p.v[1] & 1) x = -x;
    const float q = codec::quotient(x, d, 1 / d);
    if (std::bit_cast<std::uint32_t>(q) != std::bit_cast<std::uint32_t>(x / d))
      FAIL_CHECK(fmt::format("{:a} / {:a}: got {:a}, expected {:a}", x, d, q, x / d));
  }
  for (const float x : {0.0f, -0.0f, 1e-45f, -1e-38f, 0x1p-101f})
    for (const float d : {0x1p-64f, 3.0f, 0x1.8p63f}) {
      const float q = codec::quotient(x, d, 1 / d);
      CHECK(std::fabs(q) < 0x1p-36f);
      CHECK(std::signbit(q) == std::signbit(x));
    }
}

GPU_TEST("cuda quant: every spec, every kind of number") {
  for (const QuantSpec& spec : quant_checks::specs())
    for (const DType dtype : {DType::F32, DType::BF16})
      for (const Numbers kind : kNumbers)
        if (in_sample()) check_quantizer(numbers(kind, 12, 42, dtype), spec);
}

GPU_TEST("cuda quant: every format by every route") {
  // Vectors with one step, vectors with eight, single elements; chunks of several rows.
  for (const char* tile : {"tensor", "row", "col", "group128", "block128", "tile128x1", "group16"})
    for (const QuantSpec& spec : formats(tile)) {
      if (!in_sample()) continue;
      check_quantizer(numbers(Numbers::Special, 200, 384, DType::BF16), spec);
      check_quantizer(numbers(Numbers::Ties, 200, 384, DType::F32), spec);
    }
}

GPU_TEST("cuda quant: odd and one-sided shapes") {
  for (const Shape shape : {Shape{1, 1}, Shape{3, 5}, Shape{7, 129}, Shape{1, 4099}, Shape{4099, 1},
                            Shape{33, 64}, Shape{130, 136}, Shape{5, 8}, Shape{257, 24}})
    for (const char* text :
         {"int8:row:recip", "int8:sr:tensor", "uint8:asym:col", "e4m3:group16:e8m0", "dyn8:block4",
          "int4:packed:group5", "int8:recip:tile16x1:sr", "e2m1:group16:twolevel:packed",
          "int8:tile4x7"})
      for (const Numbers kind : {Numbers::Bell, Numbers::Special}) {
        if (!in_sample()) continue;
        const Tensor x = numbers(kind, shape[0], shape[1], DType::BF16);
        check_quantizer(x, parse_spec(text));
        check_quantizer(x, parse_spec(text), true);
      }
}

GPU_TEST("cuda quant: empty matrices") {
  for (const Shape shape : {Shape{0, 8}, Shape{3, 0}, Shape{0, 0}}) {
    const QTensor q = quantize(Tensor::empty(shape, DType::F32, kGpu), parse_spec("int8:row"));
    CHECK(q.payload().numel() == 0);
    CHECK(dequantize(q).shape() == q.shape());
  }
}

GPU_TEST("cuda quant: more than a million elements of every format") {
  const Tensor f32 = numbers(Numbers::Heavy, 2048, 2048, DType::F32);
  const Tensor bf16 = f32.to(DType::BF16);
  const char* tiles[] = {"group128", "row", "block128", "tensor", "tile128x1", "col"};
  int i = 0;
  for (const QuantSpec& spec : formats("group256")) {
    QuantSpec other = spec;
    other.tile = parse_spec(std::string("int8:") + tiles[i++ % 6]).tile;
    check_quantizer(bf16, other);
    if (spec.format.kind() == Format::Kind::CodeBook) check_quantizer(f32, spec);
  }
}

GPU_TEST("cuda quant: noise follows the key, the element and the step") {
  const Tensor x = numbers(Numbers::Bell, 64, 96, DType::F32);
  for (const Device device : {kCpu, kGpu}) {
    StepState state(device);
    state.begin(5, 1);
    const QTensor q =
        quantize(x.to(device), parse_spec("int8:row:sr"), RngKey{3, 4, state.step_pointer()});
    StepState host;
    host.begin(5, 1);
    const QTensor expected =
        quantize(x, parse_spec("int8:row:sr"), RngKey{3, 4, host.step_pointer()});
    check_bits(expected.payload(), q.payload());
    // Turned codes carry the noise of x's own elements.
    const QTensor turned =
        quantize(x.to(device), parse_spec("int8:col:sr"), RngKey{3, 4, state.step_pointer()}, true);
    check_bits(expected.t_contiguous().payload(), turned.payload());
  }
}

GPU_TEST("cuda quant: kernels write their outputs and nothing else") {
  for (const char* text : {"int8:group16:sr", "uint8:asym:tile16x1", "dyn8:row:recip", "e5m2:col"})
    for (const std::int64_t offset : {0, 1, 3})
      for (const DType dtype : {DType::F32, DType::BF16}) {
        const QuantSpec spec = parse_spec(text);
        CAPTURE(text);
        CAPTURE(offset);
        const Tensor x = numbers(Numbers::Bell, 40, 48, dtype);
        const QTensor q = quantize(x, spec, kKey);
        in_lockstep(
            {x, q.payload(), q.scales(), q.zeros()},
            [&](const std::vector<Tensor>& in) {
              const Device device = in[0].device();
              const Shape shape = in[0].shape();
              const Tensor from = displaced(in[0], offset);
              Framed codes = framed(shape, in[1].dtype(), device, offset);
              NIBBLE_DISPATCH(device, quant_encode(codes.inner, from, in[2], in[3], spec, kKey));
              Framed decoded = framed(shape, dtype, device, offset);
              const Tensor displaced_codes = displaced(in[1], offset);
              NIBBLE_DISPATCH(device,
                              quant_decode(decoded.inner, displaced_codes, in[2], in[3], spec));
              Framed rounded = framed(shape, dtype, device, offset);
              rounded.inner.copy_from(from);  // in place
              NIBBLE_DISPATCH(
                  device, quant_roundtrip(rounded.inner, rounded.inner, in[2], in[3], spec, kKey));
              return std::vector<Tensor>{codes.buffer, decoded.buffer, rounded.buffer};
            },
            [](const Tensor& cpu, const Tensor& gpu) { check_bits(cpu, gpu); });
      }
}

GPU_TEST("cuda quant: transposing and packing move every code") {
  for (const Shape shape : {Shape{1, 1}, Shape{16, 16}, Shape{128, 128}, Shape{144, 272},
                            Shape{129, 127}, Shape{5, 1000}, Shape{2048, 48}, Shape{300, 513}})
    for (const std::int64_t offset : {0, 1, 16})
      for (const DType dtype : {DType::I8, DType::U8}) {
        CAPTURE(shape);
        CAPTURE(offset);
        const Tensor codes =
            uniform(shape, DType::F32, dtype == DType::I8 ? -8 : 0, dtype == DType::I8 ? 8 : 16)
                .to(dtype);
        in_lockstep(
            {codes},
            [&](const std::vector<Tensor>& in) {
              const Device device = in[0].device();
              const Tensor from = displaced(in[0], offset);
              Framed turned = framed({shape[1], shape[0]}, dtype, device, offset);
              NIBBLE_DISPATCH(device, quant_transpose(turned.inner, from));
              Tensor packed =
                  Tensor::zeros({shape[0], shape[1] + shape[1] % 2}, DType::U4x2, device);
              NIBBLE_DISPATCH(device, quant_pack(packed, from));
              Framed unpacked = framed(shape, dtype, device, offset);
              NIBBLE_DISPATCH(device, quant_unpack(unpacked.inner, packed));
              return std::vector<Tensor>{turned.buffer, packed, unpacked.buffer};
            },
            [](const Tensor& cpu, const Tensor& gpu) { check_bits(cpu, gpu); });
      }
}
