// Time by kernel class: names, sums and tables (tier: exact).
#include <doctest/doctest.h>

#include <fstream>
#include <regex>
#include <set>
#include <sstream>

#include "apps/profile/profile_table.h"
#include "apps/profile/step_kernels.h"
#include "quant/qtensor.h"
#include "tensor/kernel_trace.h"
#include "tensor/ops.h"

using namespace nibble;
using namespace nibble::profile;

namespace {

std::string text_of(const std::filesystem::path& file) {
  std::ifstream in(file);
  std::stringstream text;
  text << in.rdbuf();
  return text.str();
}

// What is declared __global__ in a unit.
std::set<std::string> kernels_in(const std::string& plain) {
  static const std::regex kBounds(
      R"(__(launch_bounds|cluster_dims)__\s*\((?:[^()]|\([^()]*\))*\))"),
      kKernel(R"(__global__\s+void\s+(\w+)\s*\()");
  const std::string source = std::regex_replace(plain, kBounds, "");
  std::set<std::string> names;
  for (auto at = std::sregex_iterator(source.begin(), source.end(), kKernel);
       at != std::sregex_iterator(); ++at)
    names.insert((*at)[1]);
  return names;
}

std::vector<KernelRun> sample_runs() {
  // Two steps: 1 and 2 overlap, then nothing for 300 ns.
  return {{"nvjet_tst_128x256_64x4_1x2_h_bz_coopA_NNT", 0, 1000},
          {"void nibble::cuda::whole::whole_kernel<2>(int)", 500, 1500},
          {"nvjet_tst_128x256_64x4_1x2_h_bz_coopA_NNT", 1800, 2000}};
}

}  // namespace

TEST_CASE("profile: every kernel of ours has a class") {
  const std::filesystem::path root = NIBBLE_SOURCE_DIR;
  std::size_t known = 0, declared = 0;
  for (const char* folder : {"tensor/cuda", "quant/cuda", "optim/cuda"})
    for (const auto& file : std::filesystem::directory_iterator(root / folder)) {
      static const std::regex kComments("//[^\n]*");
      const std::string source = std::regex_replace(text_of(file.path()), kComments, "");
      for (std::size_t at = 0; (at = source.find("__global__", at)) != std::string::npos; ++at)
        ++declared;
      for (const std::string& name : kernels_in(source)) {
        ++known;
        CHECK_MESSAGE(classify("void nibble::cuda::(anonymous namespace)::" + name + "<1>(int)") !=
                          KernelClass::Other,
                      name, " of ", file.path().string(),
                      " needs a rule in apps/profile/kernel_classes.cpp");
      }
    }
  CHECK(known > 50);
  CHECK(known == declared);
}

TEST_CASE("profile: classes by function, by functor and of libraries") {
  const auto is = [](const char* name, KernelClass of) {
    CHECK_MESSAGE(classify(name) == of, name, ": ", class_name(classify(name)));
  };
  const std::string ours = "void nibble::cuda::";
  const std::string gelu =
      ours +
      "map_kernel<8, nibble::bfloat16, nibble::cuda::(anonymous namespace)::gelu_tanh_of, "
      "nibble::bfloat16>(nibble::bfloat16*, long, float const*)";
  is(gelu.c_str(), KernelClass::Activation);
  const std::string add =
      ours + "map_kernel<8, float, nibble::cuda::(anonymous namespace)::Axpy, float>(float*, long)";
  is(add.c_str(), KernelClass::Elementwise);
  const std::string fold = ours + "fold_bands_kernel<nibble::cuda::SumFold, ";
  is((fold + "nibble::cuda::(anonymous namespace)::AddToGradients>(float const*)").c_str(),
     KernelClass::Norm);
  is((fold + "nibble::cuda::Store<float> >(float const*)").c_str(), KernelClass::Reduction);
  is("nvjet_tst_192x192_64x4_2x1_v_bz_coopB_TNN", KernelClass::FloatProduct);
  is("void cutlass::Kernel2<cutlass_80_simt_sgemm_64x64_8x5_nn_align1>(Params)",
     KernelClass::FloatProduct);
  is("nvjet_qqtst_128x256_128x6_2x1_v_bz_TNT", KernelClass::Fp8Product);
  is("cudnn_generated_fort_native_sdpa_sm90_flash_bprop_wgmma_f16_knob_5", KernelClass::Attention);
  is("void cudnn::fusion::compute_dot_do_o_specialized<true>(int)", KernelClass::Attention);
  is("copy host to device", KernelClass::Elementwise);
  is("fill", KernelClass::Elementwise);
  is("void somebody::else_kernel<3>(int)", KernelClass::Other);
  CHECK(function_of(gelu) == "map_kernel");
  CHECK(short_name(gelu) == "map_kernel<8, bfloat16, gelu_tanh_of, bfloat16>");
  CHECK(short_name("set_condition(unsigned long long, unsigned int const*)") == "set_condition");
  CHECK(short_name(std::string(300, 'x')).size() == 100);
}

TEST_CASE("profile: steps are summed, gaps are found, files read back") {
  KernelProfile p = summarize(sample_runs(), 2);
  CHECK(p.step_seconds == doctest::Approx(1000e-9));
  CHECK(p.busy_seconds == doctest::Approx(850e-9));
  REQUIRE(p.kernels.size() == 2);
  CHECK(p.kernels[0].of == KernelClass::FloatProduct);
  CHECK(p.kernels[0].launches == 1);
  CHECK(p.kernels[0].seconds == doctest::Approx(600e-9));
  CHECK(p.total(KernelClass::IntProduct).launches == 0.5);
  p.processor = "NVIDIA H200";
  p.operations.of[static_cast<std::size_t>(OperationKind::FloatProduct)] = 0.5 * 989e12 * 600e-9;
  p.memory = 425000;
  const KernelProfile q = kernel_profile_of(to_json(p));
  CHECK(to_json(q) == to_json(p));
  const std::string table = class_table(q);
  CHECK(table.find("| float products | 1 | 0.001 | 60.0 % | 494 | 50.0 % |") != std::string::npos);
  CHECK(table.find("| nothing runs | - | 0.000 | 15.0 % |") != std::string::npos);
  CHECK(table.find("once at a copy's 4.25 TB/s: 0.0 GB, 0.0 ms, 20.0 % of the step.") !=
        std::string::npos);
  CHECK(table.find("at the same time") != std::string::npos);
  CHECK(kernel_table(q, 1).find("whole_kernel") == std::string::npos);
  CHECK_FALSE(ceilings_of("AMD EPYC").has_value());
  CHECK_THROWS_WITH_AS(summarize({}, 1), doctest::Contains("expected some"), Error);
  CHECK_THROWS_WITH_AS(kernel_profile_of(Json{{"steps", 3}}),
                       doctest::Contains("not a profile of kernels"), Error);
}

TEST_CASE("profile: the arithmetic of products and attention is counted where it is queued") {
  const auto counted = [](const std::function<void()>& work) {
    const OperationCount before = operation_count();
    work();
    return operation_count() - before;
  };
  const Tensor a = Tensor::zeros({3, 4, 8}, DType::F32), b = Tensor::zeros({8, 5}, DType::F32);
  CHECK(counted([&] { ops::matmul(a, b); })[OperationKind::FloatProduct] == 2 * 12 * 5 * 8);
  const Tensor bias = Tensor::zeros({5}, DType::F32);
  CHECK(counted([&] {
          matmul_nt(a.select(0, 0), ops::contiguous(b.t()), {.bias = bias});
        })[OperationKind::FloatProduct] == 2 * 4 * 5 * 8);
  const Tensor x = Tensor::uniform({16, 32}, -1, 1, RngKey{1}), y = x.slice(0, 0, 8);
  const auto product = [&](const char* spec) {
    return counted([&] {
      matmul_nt(quantize(x, parse_spec(spec)), quantize(ops::contiguous(y), parse_spec(spec)));
    });
  };
  CHECK(product("int8:row")[OperationKind::IntProduct] == 2 * 16 * 8 * 32);
  CHECK(product("int8:row")[OperationKind::FloatProduct] == 0);
  CHECK(product("e4m3:row")[OperationKind::Fp8Product] == 2 * 16 * 8 * 32);
  const Tensor q = Tensor::zeros({2, 4, 3, 8}, DType::F32);
  // 2 x 3 heads, 10 of 16 pairs, two products of 8.
  CHECK(counted([&] { ops::attention(q, q, q, {}); })[OperationKind::Attention] ==
        2 * 2 * 6 * 10 * 8);
}

TEST_CASE("profile: no GPU, no trace") {
  CHECK_THROWS_WITH_AS(KernelTrace{kCpu}, "kernels: got device cpu, expected a GPU", Error);
  CHECK_THROWS_WITH_AS((StepKernels({1, 2}, kCpu)), "kernels: got device cpu, expected a GPU",
                       Error);
}
