#include "quant/decoded_product.h"

#include <algorithm>

#include "tensor/ops.h"

namespace nibble {

Tensor decoded_codes(const Tensor& codes, const Format& format) {
  QuantSpec unit;
  unit.format = format;
  Tensor y = Tensor::empty(codes.shape(), DType::F32, codes.device());
  if (y.numel() == 0) return y;
  const Tensor one = Tensor::full({1, 1}, 1.0, DType::F32, codes.device());
  NIBBLE_DISPATCH(codes.device(), quant_decode(y, codes, one, Tensor(), unit));
  return y;
}

Tensor decoded_codes(const Tensor& codes) {
  return decoded_codes(codes, Format::parse(to_string(codes.dtype())));
}

void decoded_product(Tensor& c, const Tensor& da, const Tensor& db, const CodeOperand& a,
                     const CodeOperand& b, std::int64_t block, const Tensor& bias,
                     bool accumulate) {
  const std::int64_t m = da.size(0), n = db.size(0), k = da.size(1);
  const std::int64_t blocks = k == 0 ? 0 : (k + block - 1) / block;
  Tensor f = Tensor::zeros({m, n}, DType::F32, c.device());
  Tensor part = Tensor::empty({m, n}, DType::F32, c.device());
  for (std::int64_t i = 0; i < blocks; ++i) {
    const std::int64_t begin = i * block, end = std::min(begin + block, k);
    ops::matmul_into(part, da.slice(1, begin, end), db.slice(1, begin, end).t(), false);
    NIBBLE_DISPATCH(c.device(), rescale_product(f, part, a, b, i, blocks));
  }
  store_product(c, f, bias, accumulate);
}

void store_product(Tensor& c, Tensor& y, const Tensor& bias, bool accumulate) {
  if (bias) ops::add_bias(y, bias.to(DType::F32));
  c.copy_from(accumulate ? ops::add(c.to(DType::F32), y) : y);
}

}  // namespace nibble
