// Plans of products: measured, put into use, and what they may change. Tier: exact for integers and
// between repeats; else bound by the order of accumulation, since a plan may sum in another one.
#include <algorithm>

#include "quant/cuda/int_gemm.h"
#include "quant/cuda/tune.h"
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
Tensor quantized_product(const char* left, const char* right) {
  const Tensor a = uniform({192, 4096}, DType::F32, -1, 1, 3).to(kGpu),
               b = uniform({128, 4096}, DType::F32, -1, 1, 4).to(kGpu);
  return matmul_nt(quantize(a, parse_spec(left)), quantize(b, parse_spec(right)));
}
std::vector<Tensor> products() {
  return {bf16_product(), quantized_product("e4m3:tensor", "e4m3:tensor"),
          quantized_product("int8:row", "int8:row"),
          quantized_product("int8:group128", "int8:block128")};
}

}  // namespace

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
                                    {"int8:group64", "int8:block64"}}) {
    use_product_plans({});
    const Tensor untuned = quantized_product(left, right).to(kCpu);
    for (const cuda::IntProductKey& key : cuda::int_products())
      for (const cuda::IntPlan& plan : cuda::int_candidates(key)) {
        use_product_plans({{cuda::int_key(key), to_text(plan)}});
        check_bits(untuned, quantized_product(left, right), left + (": " + to_text(plan)));
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
  use_product_plans({{cuda::int_key(integer[0]), "wgmma segment=17"}});
  CHECK_THROWS_WITH_AS(quantized_product("int8:row", "int8:row"),
                       doctest::Contains("got 'wgmma segment=17', which does not serve it"), Error);
}
