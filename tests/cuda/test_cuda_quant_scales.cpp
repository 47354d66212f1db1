// Ranges, scales and steps on the GPU: the CPU's bits by every route through a matrix's tiles.
#include "tests/cuda/quant_inputs.h"

using namespace nibble;
using namespace nibble::testing;

namespace {

// ranges, minima; stored scales, zero points, global scale; steps: each from the CPU's inputs.
void check_scales(const Tensor& x, const QuantSpec& spec, std::int64_t offset = 0) {
  CAPTURE(to_string(spec));
  CAPTURE(describe(x));
  const Shape tiles = spec.scale_shape(x.size(0), x.size(1));
  const auto bits = [](const Tensor& cpu, const Tensor& gpu) { check_bits(cpu, gpu); };
  Tensor ranges = Tensor::empty(tiles), minima;
  if (!spec.symmetric) minima = Tensor::empty(tiles);
  in_lockstep(
      {x},
      [&](const std::vector<Tensor>& in) {
        const Device device = in[0].device();
        Framed r = framed(tiles, DType::F32, device, offset),
               m = framed(tiles, DType::F32, device, offset);
        Tensor none;
        NIBBLE_DISPATCH(device, quant_ranges(r.inner, spec.symmetric ? none : m.inner,
                                             displaced(in[0], offset), spec));
        if (device.is_cpu()) {
          ranges.copy_from(r.inner);
          if (!spec.symmetric) minima.copy_from(m.inner);
        }
        return std::vector<Tensor>{r.buffer, m.buffer};
      },
      bits);
  in_lockstep(
      {ranges, minima},
      [&](const std::vector<Tensor>& in) {
        const Device device = in[0].device();
        Scales s = Scales::empty(spec, x.size(0), x.size(1), device);
        NIBBLE_DISPATCH(device, quant_scales(s.stored, s.zeros, s.global, in[0], in[1], spec));
        return std::vector<Tensor>{s.stored, s.zeros, s.global, s.steps(spec)};
      },
      bits);
}

}  // namespace

GPU_TEST("cuda scales: every spec, every kind of number") {
  for (const QuantSpec& spec : quant_checks::specs())
    for (const DType dtype : {DType::F32, DType::BF16})
      for (const Numbers kind : kNumbers)
        if (in_sample()) check_scales(numbers(kind, 12, 42, dtype), spec);
}

GPU_TEST("cuda scales: every way to cut a matrix into tiles") {
  // Groups, columns, parts by warps and by blocks, tiles of several parts, single elements.
  for (const char* tile :
       {"tensor",    "row",       "col",        "group8",       "group16",  "group128",
        "group256",  "group512",  "group5",     "block4",       "block32",  "block128",
        "tile128x1", "tile16x1",  "tile8x1",    "tile128x8",    "tile64x3", "tile300x40",
        "tile1x24",  "tile2x128", "row:split3", "col:rowsplit2"})
    for (const char* option : {"int8:", "uint8:asym:"})
      for (const Shape shape : {Shape{1, 1}, Shape{300, 384}, Shape{258, 1536}, Shape{130, 129},
                                Shape{6, 20001}, Shape{4098, 6}, Shape{2, 65536}}) {
        const QuantSpec spec = parse_spec(std::string(option) + tile);
        if (!fits(spec, shape[0], shape[1])) continue;
        for (const Numbers kind : {Numbers::Heavy, Numbers::Special})
          check_scales(numbers(kind, shape[0], shape[1], DType::BF16), spec);
        check_scales(numbers(Numbers::Heavy, shape[0], shape[1], DType::F32), spec);
      }
}

GPU_TEST("cuda scales: sums keep their order") {
  // Segments of 64 rows: one, several, and a last one that is not whole.
  for (const char* spec :
       {"int4:absmean2:tensor", "int4:absmean2:row", "int8:absmean3:col", "int4:absmean2:group16",
        "int4:absmean2:block128", "int4:absmean1.5:tile100x7", "int4:mse7:row", "int8:mse5:tensor",
        "e2m1:mse9:group16:e8m0", "int4:mse6:block64:bf16", "int3:mse4:col:pow2", "dyn4:mse5:row",
        "e4m3:mse3:block32:recip", "int8:mse3:group128:twolevel"})
    for (const Shape shape : {Shape{64, 48}, Shape{65, 130}, Shape{300, 256}, Shape{1, 5000}})
      for (const Numbers kind : kNumbers) {
        check_scales(numbers(kind, shape[0], shape[1], DType::F32), parse_spec(spec));
        check_scales(numbers(kind, shape[0], shape[1], DType::BF16), parse_spec(spec));
      }
}

GPU_TEST("cuda scales: large matrices") {
  const Tensor f32 = numbers(Numbers::Heavy, 4096, 1024, DType::F32);
  const Tensor bf16 = f32.to(DType::BF16);
  for (const char* spec :
       {"int8:tensor", "int8:row", "int8:col", "int8:group128", "int8:block128", "int8:tile128x1",
        "uint8:asym:tensor", "uint8:asym:row", "uint8:asym:col", "e2m1:group16:twolevel",
        "e4m3:group32:e8m0", "int8:group64:relfloor0.1", "dyn8:group256", "int4:absmean2:tensor"}) {
    check_scales(f32, parse_spec(spec));
    check_scales(bf16, parse_spec(spec));
  }
}

GPU_TEST("cuda scales: unaligned inputs, sentinels around outputs") {
  for (const char* spec : {"int8:tensor", "int8:row", "int8:col", "int8:group16", "int8:block32",
                           "uint8:asym:tile16x1", "int4:absmean2:row"})
    for (const std::int64_t offset : {1, 2, 3, 5}) {
      check_scales(numbers(Numbers::Bell, 96, 160, DType::BF16), parse_spec(spec), offset);
      check_scales(numbers(Numbers::Bell, 96, 160, DType::F32), parse_spec(spec), offset);
    }
}
