// product_route: what serves a product, asked without running it.
#include <doctest/doctest.h>

#include "quant/product_route.h"
#include "quant/qtensor.h"

using namespace nibble;

namespace {
ProductRoute route(const char* a, const char* b, const ProductExtents& x, Device device) {
  return product_route(parse_spec(a), parse_spec(b), x, device);
}
const ProductExtents kSmall{.m = 64, .n = 48, .k = 96};
}  // namespace

TEST_CASE("product route: small floats are decoded, and say so") {
  for (const Device device : {kCpu, cuda_device()}) {
    const ProductRoute whole = route("e5m2:tensor", "e4m3:row", kSmall, device);
    CHECK(whole.name == "decoded to f32 + f32 product");
    CHECK(whole.decoded);
    CHECK(whole.reason ==
          "e5m2 x e4m3: small floats are multiplied as f32, in one product, then "
          "scaled");
    CHECK(route("e4m3:group32", "e4m3:block32", kSmall, device).reason ==
          "e4m3 x e4m3: small floats are multiplied as f32, one product for each of 3 blocks, then "
          "scaled");
  }
}

TEST_CASE("product route: integers stay codes") {
  const ProductRoute cpu = route("int8:group32", "int8:block32", kSmall, kCpu);
  CHECK(cpu.name == "cpu int kernel");
  CHECK(cpu.reason ==
        "int8 x int8 codes in contraction blocks of 32 of 96: exact integer sums, then scales");
  CHECK(!cpu.decoded);
  const ProductRoute gpu = route("int8:row", "int8:row", kSmall, cuda_device());
  CHECK(!gpu.decoded);
  if (!kHasCuda) CHECK(gpu.name == "int kernels of a CUDA build");
  if (kHasCuda) {
    CHECK(gpu.name != route("uint8:row:asym", "int8:row", kSmall, cuda_device()).name);
    CHECK(route("uint8:row:asym", "int8:row", kSmall, cuda_device()).name == "general dp4a");
  }
}

TEST_CASE("product route: what matmul_nt refuses has none, for the same reason") {
  const ProductRoute mixed = route("int8:row", "e4m3:row", kSmall, kCpu);
  CHECK(mixed.name == "none");
  CHECK(mixed.reason == "lhs is int8 and rhs is e4m3; encode both as integers or both as floats");
  CHECK(route("int8:col", "int8:row", kSmall, kCpu).name == "none");
  CHECK_THROWS_WITH(route("int8:row", "int8:row", {.m = 4, .n = 0, .k = 8}, kCpu),
                    "product route: got [4, 8] x [8, 0], expected positive extents");
  CHECK_THROWS_WITH(route("int8:row", "int8:row", kSmall, kMeta),
                    "product route: got device meta, which runs no kernel; name the device that "
                    "the product is for");
}

TEST_CASE("product route: only a GPU's decoded products are counted") {
  const Tensor x = Tensor::normal({4, 32}, 0, 1, RngKey{1, 2});
  const std::uint64_t before = decoded_products();
  (void)matmul_nt(quantize(x, parse_spec("e4m3:row")), quantize(x, parse_spec("e4m3:row")));
  CHECK(decoded_products() == before);
}
