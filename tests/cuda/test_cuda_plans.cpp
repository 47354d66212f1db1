// Plans of products: measured, put into use, and what they may change. Tier: exact for integers and
// between repeats; else bound by the order of accumulation, since a plan may sum in another one.
#include <algorithm>

#include "quant/cuda/int_gemm.h"
#include "quant/cuda/tune.h"
#include "quant/cuda/whole_plan.h"
#include "quant/qtensor.h"
#include "tensor/cuda/gemm_lt.h"
#include "tensor/product_plans.h"
#include "tests/cuda/lockstep.h"

using namespace nibble;
using namespace nibble::testing;

namespace {

struct NoPlans {
  NoPlans() { use_product_plans({}); }
  ~NoPlans() { use_product_plans({}); }
};

Tensor bf16_product() {
  const Tensor a = uniform({192, 256}, DType::BF16, -1, 1, 1).to(kGpu),
               b = uniform({128, 256}, DType::BF16, -1, 1, 2).to(kGpu);
  return ops::matmul(a, b.t());
}
Tensor quantized_product(const char* left, const char* right, std::int64_t k = 4096) {
  const Tensor a = uniform({192, k}, DType::F32, -1, 1, 3).to(kGpu),
               b = uniform({128, k}, DType::F32, -1, 1, 4).to(kGpu);
  return matmul_nt(quantize(a, parse_spec(left)), quantize(b, parse_spec(right)));
}
std::vector<Tensor> products() {
  return {bf16_product(), quantized_product("e4m3:tensor", "e4m3:tensor"),
          quantized_product("int8:row", "int8:row"),
          quantized_product("int8:group128", "int8:block128")};
}

}  // namespace

// Needs no GPU.
TEST_CASE("cuda plans: the candidates of an int8 product follow from its layout") {
  const auto texts = [](const cuda::IntProductKey& key) {
    std::string all;
    for (const cuda::IntPlan& plan : cuda::int_candidates(key))
      all += (all.empty() ? "" : ", ") + to_text(plan);
    return all;
  };
  const cuda::IntProductKey whole{.m = 4096, .n = 768, .k = 3072, .block = 3072};
  CHECK(texts(whole).starts_with("wgmma, wgmma columns=256 rounds=0, wgmma columns=256 rounds=1"));
  CHECK(texts(whole).ends_with("wgmma columns=128 rounds=1, tiles large, tiles small, library"));
  CHECK(
      texts({.m = 16, .n = 768, .k = 512, .block = 512}) ==
      "wgmma, wgmma columns=256 rounds=0, wgmma columns=192 rounds=0, wgmma columns=128 rounds=0, "
      "resident, tiles large, tiles small");
  CHECK(texts({.m = 8192, .n = 768, .k = 512, .block = 512})
            .starts_with("resident, wgmma, wgmma columns=256 rounds=0"));
  CHECK(texts({.m = 64, .n = 48, .k = 512, .block = 128}) == "wgmma, tiles large, tiles small");
  CHECK(texts({.m = 64, .n = 48, .k = 512, .block = 64}) == "tiles, tiles large, tiles small");
  CHECK(texts({.m = 64, .n = 48, .k = 512, .block = 128, .zero_points = true}) == "general");
  CHECK(texts({.m = 64, .n = 48, .k = 512, .block = 512, .zero_points = true}) ==
        "wgmma, wgmma columns=256 rounds=0");
  CHECK(texts({.m = 64, .n = 48, .k = 512, .block = 512, .gelu = true}) == "wgmma, wgmma fused");
  CHECK(texts({.m = 64, .n = 48, .k = 512, .block = 64, .gelu = true}) == "tiles");
  CHECK(cuda::int_key(whole) == "int [4096, 768, 3072] by 3072 a i8/1 b i8/1 c f32");
  CHECK(cuda::int_key({.m = 64,
                       .n = 48,
                       .k = 512,
                       .block = 128,
                       .b = DType::U4x2,
                       .c = DType::BF16,
                       .accumulate = true,
                       .bias = true,
                       .a_columns = 4,
                       .b_columns = 4,
                       .b_tile_rows = 32}) ==
        "int [64, 48, 512] by 128 a i8/1/blocks b u4x2/32/blocks c bf16 added bias");
}

// Needs no GPU: the fastest of what was measured on an H200 of 66 clusters.
TEST_CASE("cuda plans: tiles of an int8 product follow from what they are estimated to take") {
  const auto plan = [](std::int64_t m, std::int64_t n, std::int64_t k) {
    const cuda::WholePlan p = cuda::whole_plan({}, m, n, k, 66);
    return fmt::format("{}x{}", p.columns, p.rounds);
  };
  CHECK(plan(768, 768, 32768) == "128x1");
  CHECK(plan(2304, 768, 32768) == "128x0");
  CHECK(plan(3072, 768, 32768) == "128x1");
  CHECK(plan(768, 3072, 32768) == "128x1");
  CHECK(plan(8192, 4800, 1600) == "192x0");
  CHECK(plan(8192, 1600, 1600) == "192x0");
  CHECK(plan(8192, 1600, 6400) == "192x0");
  CHECK(plan(1600, 6400, 8192) == "256x0");
  CHECK(plan(1600, 1600, 8192) == "192x0");
  CHECK(plan(32768, 6400, 1600) == "256x0");
  CHECK(plan(4096, 4096, 4096) == "256x0");
  CHECK(plan(16, 768, 768).ends_with("x0"));
}

TEST_CASE("cuda plans: a library product's key tells all that a plan depends on") {
  cuda::LtProduct p;
  p.m = 8, p.n = 16, p.k = 32;
  p.a = {DType::E4M3, false, 32, 0, 16};
  p.b = {DType::E5M2, true, 32, 0, 16};
  p.c = {DType::BF16, false, 16, 0, 16};
  const std::string key = cuda::lt_key(p);
  CHECK(key == "lt 1x[8, 16, 32] a e4m3/32/0/16 b e5m2t/32/0/16 c bf16/16/0/16");
  const auto changed = [&](auto change) {
    cuda::LtProduct other = p;
    change(other);
    return cuda::lt_key(other);
  };
  CHECK(changed([](auto& x) { x.fast = true; }) == key + " fast");
  CHECK(changed([](auto& x) { x.accumulate = true; }) == key + " added");
  CHECK(changed([](auto& x) { x.bias_alignment = 16; }) == key + " bias/16");
  CHECK(changed([](auto& x) { x.scaling = cuda::LtScaling::Rows; }) == key + " row-scaled");
  CHECK(changed([](auto& x) { x.scaling = cuda::LtScaling::Tensor; }) == key + " tensor-scaled");
  CHECK(changed([](auto& x) { x.batch = 2; }) != key);
  CHECK(changed([](auto& x) { x.b.alignment = 8; }) != key);
  CHECK(changed([](auto& x) { x.c.stride = 24; }) != key);
}

GPU_TEST("cuda plans: every plan measured serves, and integers keep their bits") {
  const NoPlans guard;
  const std::vector<Tensor> untuned = products();
  const auto measured = cuda::measure_products({.repeats = 1, .candidates = 8});
  ProductPlans plans;
  for (const auto& m : measured) {
    CAPTURE(m.key);
    CHECK(m.candidates >= 1);
    CHECK(m.us > 0);
    CHECK(m.us <= m.untuned_us);
    CHECK(plans.emplace(m.key, m.plan).second);
  }
  const auto has = [&](const char* word) {
    return std::any_of(plans.begin(), plans.end(),
                       [&](const auto& p) { return p.first.find(word) != std::string::npos; });
  };
  CHECK(has("a bf16"));
  CHECK(has("int [192, 128, 4096]"));
  use_product_plans(plans);
  const std::vector<Tensor> tuned = products(), again = products();
  for (std::size_t i = 0; i < tuned.size(); ++i) {
    check_bits(tuned[i].to(kCpu), again[i], "repeated");
    if (i < 2)
      check_near(untuned[i].to(kCpu), tuned[i], 0.01, 1.0);
    else
      check_bits(untuned[i].to(kCpu), tuned[i], "integers");
  }
  use_product_plans({});
  const std::vector<Tensor> back = products();
  for (std::size_t i = 0; i < back.size(); ++i) check_bits(untuned[i].to(kCpu), back[i], "untuned");
}

GPU_TEST("cuda plans: each candidate of an int8 product gives the same bits") {
  const NoPlans guard;
  for (const auto& [left, right] : {std::pair{"int8:row", "int8:row"},
                                    {"int8:row", "int8:tensor"},
                                    {"int8:group128", "int8:block128"},
                                    {"int8:group256", "int8:group256"},
                                    {"int8:group64", "int8:block64"}})
    for (const std::int64_t k : {std::int64_t{4096}, std::int64_t{512}}) {
      use_product_plans({});
      const Tensor untuned = quantized_product(left, right, k).to(kCpu);
      for (const cuda::IntProductKey& key : cuda::int_products())
        for (const cuda::IntPlan& plan : cuda::int_candidates(key)) {
          use_product_plans({{cuda::int_key(key), to_text(plan)}});
          check_bits(untuned, quantized_product(left, right, k), left + (": " + to_text(plan)));
        }
    }
}

GPU_TEST("cuda plans: a plan that does not serve its product is an error that names it") {
  const NoPlans guard;
  (void)bf16_product();
  const auto library = cuda::lt_products();
  REQUIRE(library.size() == 1);
  const std::string key = cuda::lt_key(library[0]);
  for (const std::string& plan : {std::string("nonsense"), std::string("lt 12"),
                                  "lt " + std::string(128, 'f'), "lt " + std::string(128, 'x')}) {
    use_product_plans({{key, plan}});
    CHECK_THROWS_WITH_AS(bf16_product(), doctest::Contains(key.c_str()), Error);
  }
  use_product_plans({});
  (void)quantized_product("int8:row", "int8:row");
  const auto integer = cuda::int_products();
  REQUIRE(integer.size() == 1);
  use_product_plans({{cuda::int_key(integer[0]), "wgmma columns=17 rounds=0"}});
  CHECK_THROWS_WITH_AS(
      quantized_product("int8:row", "int8:row"),
      doctest::Contains("got 'wgmma columns=17 rounds=0', which does not serve it"), Error);
}
