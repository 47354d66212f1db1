// QTensor: payload + scales (+ zero points) + spec of one [rows, cols] matrix.
// Law: x̂[i] = (decode(payload[i]) + zeros[tile(i)]) · scales[tile(i)]; scales.shape =
// spec.scale_shape(rows, cols). The payload is [rows, cols]; packed, each row is padded to a whole
// byte: U4x2 [rows, cols + cols % 2], even columns in the low nibble. Spec and shape never change;
// payload and scales may be rewritten by the Parameter or optimizer state that owns them.
#pragma once

#include <optional>
#include <variant>
#include <vector>

#include "quant/spec.h"
#include "tensor/rng.h"
#include "tensor/tensor.h"

namespace nibble {

class QTensor {
 public:
  // Checks dtypes, shapes and devices against the spec; throws Error("qtensor").
  QTensor(Tensor payload, Tensor scales, Tensor zeros, Tensor global_scale, QuantSpec spec,
          Shape shape);
  // Uninitialised payload and zeroed scales of the right shapes.
  static QTensor empty(const QuantSpec& spec, std::int64_t rows, std::int64_t cols,
                       Device device = kCpu);

  const Shape& shape() const { return shape_; }
  std::int64_t rows() const { return shape_[0]; }
  std::int64_t cols() const { return shape_[1]; }
  Device device() const { return payload_.device(); }
  const QuantSpec& spec() const { return spec_; }
  const Tensor& payload() const { return payload_; }
  const Tensor& scales() const { return scales_; }  // F32; BF16, U8 (E8M0) or E4M3 by spec.scale
  const Tensor& zeros() const { return zeros_; }    // F32, whole numbers; undefined if symmetric
  const Tensor& global_scale() const { return global_; }  // F32 [1]; TwoLevel only
  Tensor& payload() { return payload_; }
  Tensor& scales() { return scales_; }
  Tensor& zeros() { return zeros_; }
  Tensor& global_scale() { return global_; }
  Tensor scales_f32() const;  // decoded; itself when they are F32
  std::int64_t bytes() const;

  // The transposed matrix: a view of the payload (not K-major; packed codes are copied) with
  // transposed scales and spec.
  QTensor t() const;
  // The same with the payload copied K-major; what an 8-bit product needs.
  QTensor t_contiguous() const;

 private:
  Tensor payload_, scales_, zeros_, global_;
  QuantSpec spec_;
  Shape shape_;
};

// What a producer hands to several consumers: the dense tensor, encodings of it, or both.
class Encoded {
 public:
  Encoded() = default;
  explicit Encoded(Tensor dense)
      : shape_(dense.shape()), dtype_(dense.dtype()), dense_(std::move(dense)) {}
  // Of a tensor that is not kept, or not yet there; leading dimensions are the matrix's rows.
  Encoded(const Shape& shape, DType dtype) : shape_(shape), dtype_(dtype) {}
  const Shape& shape() const { return shape_; }
  DType dtype() const { return dtype_; }
  const Tensor& dense() const { return dense_; }  // may be undefined
  // Sums over the rows, F32 [cols]; undefined unless the producer was asked for them.
  const Tensor& column_sums() const { return column_sums_; }
  void set_column_sums(Tensor sums) { column_sums_ = std::move(sums); }
  // `transposed`: q encodes the matrix's transpose.
  void add(QTensor q, bool transposed = false) {
    encodings_.push_back(std::move(q));
    transposed_.push_back(transposed);
  }
  // The encoding with exactly this spec of the matrix (or, transposed, of its transpose), or null.
  const QTensor* find(const QuantSpec& spec, bool transposed = false) const;
  const std::vector<QTensor>& encodings() const { return encodings_; }

 private:
  Shape shape_;
  DType dtype_ = DType::F32;
  Tensor dense_, column_sums_;
  std::vector<QTensor> encodings_;
  std::vector<bool> transposed_;
};

// What travels on the tape and into products. Sparse24 becomes the fourth alternative.
using Value = std::variant<Tensor, QTensor, Encoded>;

// Encodes a matrix (leading dimensions are flattened into rows). The spec is stated for the result:
// `transposed` gives the encoding of xᵀ. Stochastic noise is indexed by the element's place in x as
// it stands, so both orientations of one key draw the same noise. Not-finite input gives not-finite
// scales.
QTensor quantize(const Tensor& x, const QuantSpec& spec, const RngKey& key = {},
                 bool transposed = false);
// Writes into an existing QTensor of the right spec and shape (owned by a parameter or state).
void quantize_into(QTensor& q, const Tensor& x, const RngKey& key = {});
// Both orientations from one call: spec for x, spec_t for xᵀ.
std::pair<QTensor, QTensor> quantize_pair(const Tensor& x, const QuantSpec& spec,
                                          const QuantSpec& spec_t, const RngKey& key = {});
Tensor dequantize(const QTensor& q, DType dtype = DType::F32);  // [rows, cols]
// dequantize(quantize(x)) in one pass, in x's own shape and dtype (products and sums in f32).
Tensor fake_quantize(const Tensor& x, const QuantSpec& spec, const RngKey& key = {});

// How the product of two operands is formed.
enum class Mode : std::uint8_t {
  Simulated,  // decode both operands, float product: any spec on any operand
  Real,       // codes are multiplied (int32 accumulation for integers); the scales must factor out
};

// What a Real product of e4m3 and e5m2 codes adds up in on a GPU's tensor cores. Elsewhere sums are
// f32 and both are the same.
enum class Accumulation : std::uint8_t {
  Full,  // the tensor cores' sums (about 14 bits on Hopper) are promoted to f32 as they go
  Fast,  // they are kept to the end
};

struct MatmulOptions {
  Mode mode = Mode::Real;
  DType out = DType::F32;
  Tensor bias;  // [N], optional
  Accumulation accumulation = Accumulation::Full;
  bool gelu = false;         // tanh-GELU of the result, rounded to `out` before and after
  Tensor* before = nullptr;  // with gelu: set to what it was applied to
};
// a[M, K] · b[N, K]ᵀ → [M, N]. Dense × dense is a float product. Real with quantized operands:
// integer × integer with tensor, row, group(g) or block(b) scales (equal K-blocks), float8 ×
// float8; throws Error("matmul_nt") when a scale varies inside a contraction block, families
// differ, or one operand is dense; the message says what would work.
Tensor matmul_nt(const Value& a, const Value& b, const MatmulOptions& options = {});
// c (+)= a·bᵀ.
void matmul_nt_into(Tensor& c, const Value& a, const Value& b, Mode mode, bool accumulate,
                    Accumulation accumulation = Accumulation::Full);
// Throws what matmul_nt would throw for operands of these specs and sizes; nothing is computed.
void check_real_product(const QuantSpec& a, const QuantSpec& b, std::int64_t k,
                        std::string_view op);

}  // namespace nibble
