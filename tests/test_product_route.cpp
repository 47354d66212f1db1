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
  const ProductRoute whole = route("e5m2:tensor", "e4m3:row", kSmall, kCpu);
  CHECK(whole.name == "decoded to f32 + f32 product");
  CHECK(whole.decoded);
  CHECK(whole.is_fallback());
  CHECK(whole.reason ==
        "e5m2 x e4m3: small floats are multiplied as f32, in one product, then scaled");
  CHECK(route("e4m3:group32", "e4m3:block32", kSmall, kCpu).reason ==
        "e4m3 x e4m3: small floats are multiplied as f32, one product for each of 3 blocks, then "
        "scaled");
  CHECK(route("e2m1:row", "e4m3:row", kSmall, cuda_device()).reason ==
        "e2m1 x e4m3: small floats are multiplied as f32, in one product, then scaled");
}

// Known to every build, with or without CUDA.
TEST_CASE("product route: fp8 stays codes on a GPU where cuBLASLt multiplies them") {
  const auto on_gpu = [](const char* a, const char* b, const ProductExtents& x = kSmall) {
    return route(a, b, x, cuda_device());
  };
  const ProductRoute tensor = on_gpu("e5m2:tensor", "e4m3:tensor");
  CHECK(tensor.name == "cublaslt fp8, tensor scales");
  CHECK(tensor.reason == "e5m2 x e4m3 codes, scaled in its epilogue");
  CHECK(!tensor.decoded);
  const ProductRoute rows = on_gpu("e4m3:row", "e4m3:tensor");
  CHECK(rows.name == "cublaslt fp8, row scales");
  CHECK(rows.reason ==
        "e4m3 x e4m3 codes, scaled in its epilogue, or in a pass of their own where it cannot");
  CHECK(on_gpu("e4m3:row:pow2", "e5m2:row:bf16").name == rows.name);
  CHECK(on_gpu("e4m3:tile2x0", "e4m3:row").reason ==
        "e4m3 x e4m3 codes, scaled in a pass of their own, since scales are shared by some rows");
  const ProductRoute blocks = on_gpu("e4m3:group32", "e4m3:block32");
  CHECK(blocks.name == "cublaslt fp8+scale");
  CHECK(blocks.reason == "e4m3 x e4m3 codes, summed and scaled block by block, 3 of 32");
  CHECK(!blocks.decoded);
}

TEST_CASE("product route: fp8 that cuBLASLt does not multiply is decoded, and says why") {
  const auto check = [](const char* a, const char* b, const ProductExtents& x, const char* why) {
    const ProductRoute r = route(a, b, x, cuda_device());
    CAPTURE(r.reason);
    CHECK(r.decoded);
    CHECK(r.name == "decoded to f32 + f32 product");
    CHECK(r.reason.find(why) != std::string::npos);
  };
  check("e4m3:row", "e4m3:row", {.m = 64, .n = 48, .k = 100},
        "e4m3 x e4m3: K = 100 is no multiple of 16, so codes are multiplied as f32");
  check("e4m3:row", "e4m3:row", {.m = 64, .n = 50, .k = 96}, "N = 50 is no multiple of 16");
  check("e5m2:row", "e5m2:row", kSmall, "no fp8 kernel multiplies e5m2 by e5m2");
  check("e4m3:group24", "e4m3:group24", {.m = 64, .n = 48, .k = 96},
        "blocks of 24 are no multiple of 16");
  // Rows of the left operand may be any number.
  CHECK(!route("e4m3:row", "e4m3:row", {.m = 3, .n = 48, .k = 96}, cuda_device()).decoded);
}

TEST_CASE("product route: integers stay codes") {
  const ProductRoute cpu = route("int8:group32", "int8:block32", kSmall, kCpu);
  CHECK(cpu.name == "cpu int kernel");
  CHECK(cpu.reason ==
        "int8 x int8 codes in contraction blocks of 32 of 96: exact integer sums, then scales");
  CHECK(!cpu.is_fallback());
}

// Exact. These are Hopper's routes on any machine: this program may be a build without CUDA.
TEST_CASE("product route: a GPU's kernels are named without a GPU") {
  const ProductExtents large{.m = 32768, .n = 768, .k = 768};
  struct Row {
    const char *a, *b;
    ProductExtents extents;
    const char *name, *reason;
  };
  for (const Row& r : {
           Row{"int8:row", "int8:row", large, "wgmma resident",
               "int8 x int8 codes in contraction blocks of 768 of 768: s8 codes, one scale over a "
               "short contraction"},
           {"int8:row",
            "int8:row",
            {.m = 32768, .n = 768, .k = 3072},
            "wgmma",
            "int8 x int8 codes in contraction blocks of 3072 of 3072: s8 codes, one scale over the "
            "contraction"},
           {"int4:row:packed", "int8:row", kSmall, "wgmma",
            "int4 x int8 codes in contraction blocks of 96 of 96: s8 codes, one scale over the "
            "contraction"},
           {"int8:group256", "int8:block256", large, "wgmma",
            "int8 x int8 codes in contraction blocks of 256 of 768: s8 codes, scales in blocks of "
            "a multiple of 128"},
           {"int8:group32", "int8:block32", kSmall, "tensor-core tiles",
            "int8 x int8 codes in contraction blocks of 32 of 96: s8 codes, scales in blocks of 32 "
            "or 64"},
           {"int8:group48", "int8:row", kSmall, "general dp4a",
            "int8 x int8 codes in contraction blocks of 48 of 96: blocks are neither 32, 64 nor a "
            "multiple of 128"},
           {"uint8:row:asym", "int8:row", large, "wgmma",
            "uint8 x int8 codes in contraction blocks of 768 of 768: zero points, one scale over "
            "the contraction"},
           {"uint8:row", "int8:row", large, "wgmma",
            "uint8 x int8 codes in contraction blocks of 768 of 768: u8 codes, one scale over the "
            "contraction"},
           {"uint8:group32:asym", "int8:row", kSmall, "general dp4a",
            "uint8 x int8 codes in contraction blocks of 32 of 96: zero points of several blocks "
            "need sums of codes of each"},
           {"int8:row",
            "int8:row",
            {.m = 4, .n = 4, .k = 131072},
            "general dp4a",
            "int8 x int8 codes in contraction blocks of 131072 of 131072: a block's sum could pass "
            "2^31"},
       }) {
    CAPTURE(r.a);
    CAPTURE(r.b);
    const ProductRoute gpu = route(r.a, r.b, r.extents, cuda_device());
    CHECK(gpu.name == r.name);
    CHECK(gpu.reason == r.reason);
    CHECK(!gpu.decoded);
    CHECK(gpu.is_fallback() == (gpu.name == "general dp4a"));
  }
}

TEST_CASE("product route: dense and simulated products of floats") {
  CHECK(dense_route(DType::F32, false, kCpu) == ProductRoute{"cpu f32 product", "dense operands"});
  CHECK(dense_route(DType::BF16, true, cuda_device()) ==
        ProductRoute{"cublaslt bf16", "codes are decoded to bf16 first"});
  CHECK(dense_route(DType::F64, false, cuda_device()).name == "general f64");
  CHECK_THROWS_WITH(dense_route(DType::I8, false, kCpu),
                    "product route: got dtype i8, expected f64, f32 or bf16");
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
