#include "quant/product_route.h"

#include <atomic>

#include "quant/fp8_route.h"
#include "quant/int_gemm_route.h"

namespace nibble {
namespace {

constexpr const char* kOp = "product route";

std::atomic<std::uint64_t> g_decoded_products{0};

std::string codes_of(const QuantSpec& spec) { return spec.format.name(); }

ProductRoute int_route(const QuantSpec& a, const QuantSpec& b, const ProductExtents& x,
                       std::int64_t block, Device device) {
  const std::string codes = fmt::format("{} x {} codes in contraction blocks of {} of {}",
                                        codes_of(a), codes_of(b), block, x.k);
  if (device.is_cpu())
    return {"cpu int kernel", fmt::format("{}: exact integer sums, then scales", codes), false};
  const cuda::IntGemmLayout layout{
      x.m, x.n, x.k, block, a.payload(), b.payload(), !a.symmetric || !b.symmetric};
  const cuda::IntGemmRoute route = cuda::int_gemm_route(layout);
  return {std::string(cuda::to_string(route)),
          fmt::format("{}: {}", codes, cuda::int_gemm_reason(layout)), false,
          route == cuda::IntGemmRoute::General};
}

ProductRoute fp8_product_route(const QuantSpec& a, const QuantSpec& b, const Fp8Layout& x) {
  const Fp8Route route = fp8_route(x);
  const std::int64_t blocks = (x.k + x.block - 1) / x.block;
  std::string how;
  if (route == Fp8Route::TensorScales)
    how = "scaled in its epilogue";
  else if (route == Fp8Route::RowScales)
    how = "scaled in its epilogue, or in a pass of their own where it cannot";
  else if (route == Fp8Route::BlockScales)
    how =
        fmt::format("scaled as it sums, {} blocks of {}, or in a pass of their own where it cannot",
                    blocks, x.block);
  else if (blocks == 1)
    how = "scaled in a pass of their own, since scales are shared by some rows";
  else
    how = fmt::format("summed and scaled block by block, {} of {}", blocks, x.block);
  return {std::string(to_string(route)),
          fmt::format("{} x {} codes, {}", codes_of(a), codes_of(b), how), false};
}

ProductRoute float_route(const QuantSpec& a, const QuantSpec& b, const ProductExtents& x,
                         std::int64_t block, Device device) {
  std::string why = "small floats";
  if (device.is_cuda() && is_fp8(a.payload()) && is_fp8(b.payload())) {
    const Fp8Layout layout = fp8_layout(a, b, x);
    if (fp8_route(layout) != Fp8Route::Decoded) return fp8_product_route(a, b, layout);
    why = fp8_fault(layout) + ", so codes";
  }
  const std::int64_t blocks = (x.k + block - 1) / block;
  return {"decoded to f32 + f32 product",
          fmt::format("{} x {}: {} are multiplied as f32, {}, then scaled", codes_of(a),
                      codes_of(b), why,
                      blocks == 1 ? std::string("in one product")
                                  : fmt::format("one product for each of {} blocks", blocks)),
          true};
}

}  // namespace

ProductRoute product_route(const QuantSpec& a, const QuantSpec& b, const ProductExtents& extents,
                           Device device) {
  NIBBLE_CHECK(extents.m > 0 && extents.n > 0 && extents.k > 0, kOp,
               "got [{}, {}] x [{}, {}], expected positive extents", extents.m, extents.k,
               extents.k, extents.n);
  NIBBLE_CHECK(!device.is_meta(), kOp,
               "got device meta, which runs no kernel; name the device that the product is for");
  if (std::string fault = real_product_fault(a, b, extents); !fault.empty())
    return {"none", std::move(fault), false};
  const std::int64_t block = contraction_block(a, b, extents.k);
  if (a.format.is_float()) return float_route(a, b, extents, block, device);
  return int_route(a, b, extents, block, device);
}

ProductRoute dense_route(DType dtype, bool simulated, Device device) {
  NIBBLE_CHECK(is_float(dtype), kOp, "got dtype {}, expected f64, f32 or bf16", dtype);
  NIBBLE_CHECK(!device.is_meta(), kOp,
               "got device meta, which runs no kernel; name the device that the product is for");
  const std::string reason = simulated ? fmt::format("codes are decoded to {} first", dtype)
                                       : std::string("dense operands");
  if (device.is_cpu()) return {fmt::format("cpu {} product", dtype), reason};
  if (dtype == DType::F64)
    return {"general f64", reason + "; the library's routes are f32 and bf16"};
  return {fmt::format("cublaslt {}", dtype), reason};
}

std::uint64_t decoded_products() { return g_decoded_products.load(); }
void detail::count_decoded_product() { ++g_decoded_products; }

}  // namespace nibble
