// matmul_nt: every matrix product of a linear layer, a[M, K] · b[N, K]ᵀ.
#include "quant/decoded_product.h"
#include "quant/fp8_route.h"
#include "quant/product.h"
#include "quant/product_route.h"
#include "quant/qtensor.h"
#include "tensor/biased_product.h"
#include "tensor/operation_count.h"
#include "tensor/ops.h"

namespace nibble {
namespace {

constexpr const char* kOp = "matmul_nt";

// One side, resolved: exactly one of the two is set.
struct Operand {
  const Tensor* dense = nullptr;
  const QTensor* codes = nullptr;

  const Shape& shape() const { return dense ? dense->shape() : codes->shape(); }
  Device device() const { return dense ? dense->device() : codes->device(); }
};

std::string describe(const Operand& x) {
  if (x.dense) return describe(*x.dense);
  return fmt::format("{} {} on {}", to_string(x.codes->spec()), x.codes->shape(),
                     x.codes->device());
}

Operand resolve(const Value& value, const char* side) {
  Operand x;
  if (const auto* dense = std::get_if<Tensor>(&value)) {
    x.dense = dense;
  } else if (const auto* codes = std::get_if<QTensor>(&value)) {
    x.codes = codes;
  } else {
    const auto& encoded = std::get<Encoded>(value);
    const auto& encodings = encoded.encodings();
    NIBBLE_CHECK(encodings.size() <= 1, kOp,
                 "{} offers {} encodings, expected at most one; pass the QTensor to multiply", side,
                 encodings.size());
    if (encodings.empty())
      x.dense = &encoded.dense();
    else
      x.codes = &encodings.front();
  }
  NIBBLE_CHECK(x.codes || x.dense->defined(), kOp, "{} is undefined", side);
  NIBBLE_CHECK(x.shape().rank() == 2, kOp, "{}: got {}, expected a matrix", side, describe(x));
  return x;
}

struct Operands {
  Operand a, b;
  std::int64_t m, n, k;
};

Operands resolve(const Value& lhs, const Value& rhs) {
  const Operand a = resolve(lhs, "lhs"), b = resolve(rhs, "rhs");
  NIBBLE_CHECK(a.shape()[1] == b.shape()[1], kOp,
               "inner extents differ: got {} and {}, expected [M, K] and [N, K]", describe(a),
               describe(b));
  NIBBLE_CHECK(a.device() == b.device(), kOp, "operands live apart: got {} and {}", describe(a),
               describe(b));
  return {a, b, a.shape()[0], b.shape()[0], a.shape()[1]};
}

// c (+)= y for any pair of float dtypes.
void write(Tensor& c, const Tensor& y, bool accumulate) {
  c.copy_from(accumulate ? ops::add(c.to(y.dtype()), y) : y);
  c.bump_version();
}

void float_product(Tensor& c, const Tensor& a, const Tensor& b, const Tensor& bias,
                   bool accumulate) {
  if (bias.defined() && c.dtype() == a.dtype()) {
    ops::matmul_bias_into(c, a, b.t(), bias.to(c.dtype()));
    return;
  }
  const bool direct =
      c.dtype() == a.dtype() || (c.dtype() == DType::F32 && a.dtype() == DType::BF16);
  if (direct)
    ops::matmul_into(c, a, b.t(), accumulate);
  else
    write(c, ops::matmul(a, b.t()), accumulate);
  if (bias.defined()) ops::add_bias(c, bias.to(c.dtype()));
}

// Both operands as floats, in the dtype of a dense one, else in c's.
void simulated_product(Tensor& c, const Operands& p, bool accumulate, const Tensor& bias = {}) {
  const DType dtype = p.a.dense ? p.a.dense->dtype() : (p.b.dense ? p.b.dense->dtype() : c.dtype());
  const Tensor a = p.a.dense ? *p.a.dense : dequantize(*p.a.codes, dtype);
  const Tensor b = p.b.dense ? *p.b.dense : dequantize(*p.b.codes, dtype);
  float_product(c, a, b, bias, accumulate);
}

// Rows of codes and scales of some columns are left where they are if the product takes that.
CodeOperand code_operand(const QTensor& q, const char* side, bool takes_strided = false) {
  const Tensor& codes = q.payload();
  const bool is_whole = codes.is_contiguous();
  NIBBLE_CHECK(is_whole || (!q.spec().packed && codes.strides()[1] == 1), kOp,
               "{} payload is not K-major (a transposed view of {}); use t_contiguous()", side,
               to_string(q.spec().t()));
  CodeOperand x;
  x.codes = takes_strided ? codes : ops::contiguous(codes);
  x.scales = q.scales_f32();
  const bool rows = x.scales.size(1) <= 1 || x.scales.strides()[1] == 1;
  if (!takes_strided || q.zeros() || !rows) x.scales = ops::contiguous(x.scales);
  if (q.zeros()) x.zeros = ops::contiguous(q.zeros());
  x.tile_rows = q.spec().resolve(q.rows(), q.cols()).rows;
  x.is_signed = q.spec().format.is_signed();
  return x;
}

// Of any small float, packed ones too, as f32.
Tensor unscaled(const QTensor& q) {
  Tensor codes = ops::contiguous(q.payload());
  if (q.spec().packed) {
    codes = Tensor::empty(q.shape(), q.spec().format.payload(), q.device());
    NIBBLE_DISPATCH(q.device(), quant_unpack(codes, q.payload()));
  }
  return decoded_codes(codes, q.spec().format);
}

void small_float_product(Tensor& c, const Operands& p, std::int64_t block, const Tensor& bias,
                         bool accumulate, Accumulation accumulation) {
  const CodeOperand a = code_operand(*p.a.codes, "lhs"), b = code_operand(*p.b.codes, "rhs");
  if (is_fp8(a.codes.dtype()) && is_fp8(b.codes.dtype())) {
    count_product(OperationKind::Fp8Product, p.m, p.n, p.k);
    NIBBLE_DISPATCH(c.device(), fp8_gemm(c, a, b, block, bias, accumulate, accumulation));
  } else {
    if (c.device().is_cuda()) detail::count_decoded_product();
    decoded_product(c, unscaled(*p.a.codes), unscaled(*p.b.codes), a, b, block, bias, accumulate);
  }
  c.bump_version();
}

// GELU that ends a product.
struct Gelu {
  bool applies = false;
  Tensor* before = nullptr;
};
// c becomes GELU(c).
void apply(const Gelu& gelu, Tensor& c) {
  if (!gelu.applies) return;
  const Tensor before = c;
  c = ops::gelu(before);
  if (gelu.before) *gelu.before = before;
}

void real_product(Tensor& c, const Operands& p, const Tensor& bias, bool accumulate,
                  Accumulation accumulation, const Gelu& gelu = {}) {
  NIBBLE_CHECK(p.a.codes && p.b.codes, kOp,
               "a real product needs two encoded operands: got {} and {}; encode both, or use mode "
               "simulated",
               describe(p.a), describe(p.b));
  const QuantSpec &a = p.a.codes->spec(), &b = p.b.codes->spec();
  const std::string fault = real_product_fault(a, b, {.m = p.m, .n = p.n, .k = p.k});
  NIBBLE_CHECK(fault.empty(), kOp, "{}", fault);
  NIBBLE_CHECK(c.dtype() == DType::F32 || c.dtype() == DType::BF16, kOp,
               "a real product writes f32 or bf16: got {}", c.dtype());
  const std::int64_t block = p.k == 0 ? 1 : contraction_block(a, b, p.k);
  Tensor wide = bias && bias.dtype() == DType::F64 ? bias.to(DType::F32) : bias;
  if (wide) wide = ops::contiguous(wide);  // kernels read it as a run
  if (a.format.is_float()) {
    small_float_product(c, p, block, wide, accumulate, accumulation);
    return apply(gelu, c);
  }
  const CodeOperand x = code_operand(*p.a.codes, "lhs", true),
                    y = code_operand(*p.b.codes, "rhs", true);
  count_product(OperationKind::IntProduct, p.m, p.n, p.k);
  if (gelu.applies) {
    Tensor before;
    if (gelu.before) *gelu.before = before = Tensor::empty(c.shape(), c.dtype(), c.device());
    NIBBLE_DISPATCH(c.device(), int_gemm_gelu(c, before, x, y, p.k, block, wide));
  } else {
    NIBBLE_DISPATCH(c.device(), int_gemm(c, x, y, p.k, block, wide, accumulate));
  }
  c.bump_version();
}

bool is_real(const Operands& p, Mode mode) {
  return mode == Mode::Real && (p.a.codes || p.b.codes);
}

}  // namespace

Tensor matmul_nt(const Value& lhs, const Value& rhs, const MatmulOptions& options) {
  const Operands p = resolve(lhs, rhs);
  NIBBLE_CHECK(is_float(options.out), kOp, "got out dtype {}, expected f64, f32 or bf16",
               options.out);
  const Tensor& bias = options.bias;
  NIBBLE_CHECK(!bias || (bias.shape() == Shape{p.n} && is_float(bias.dtype())), kOp,
               "bias: got {}, expected floats of shape [{}]", describe(bias), p.n);
  NIBBLE_CHECK(options.gelu || !options.before, kOp,
               "`before` was asked for without gelu; it is the result itself then");
  const Gelu gelu{options.gelu, options.before};
  Tensor c = Tensor::empty({p.m, p.n}, options.out, p.a.device());
  if (is_real(p, options.mode)) {
    real_product(c, p, bias, false, options.accumulation, gelu);
  } else {
    simulated_product(c, p, false, bias);
    apply(gelu, c);
  }
  return c;
}

void matmul_nt_into(Tensor& c, const Value& lhs, const Value& rhs, Mode mode, bool accumulate,
                    Accumulation accumulation) {
  const Operands p = resolve(lhs, rhs);
  NIBBLE_CHECK(c.shape() == Shape({p.m, p.n}) && is_float(c.dtype()) && c.device() == p.a.device(),
               kOp, "got {} for the product of {} and {}, expected floats of shape [{}, {}]",
               describe(c), describe(p.a), describe(p.b), p.m, p.n);
  NIBBLE_CHECK(c.strides()[1] == 1 || p.n <= 1, kOp,
               "the result's columns must lie next to each other: got {} with strides {}",
               describe(c), c.strides());
  if (is_real(p, mode))
    real_product(c, p, {}, accumulate, accumulation);
  else
    simulated_product(c, p, accumulate);
}

}  // namespace nibble
