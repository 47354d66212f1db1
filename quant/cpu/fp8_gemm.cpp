// Products of e4m3 and e5m2 codes on the CPU: the reference.
#include "quant/decoded_product.h"

namespace nibble::cpu {

void fp8_gemm(Tensor& c, const CodeOperand& a, const CodeOperand& b, std::int64_t block,
              const Tensor& bias, bool accumulate, Accumulation /*sums are f32*/) {
  decoded_product(c, decoded_codes(a.codes), decoded_codes(b.codes), a, b, block, bias, accumulate);
}

}  // namespace nibble::cpu
