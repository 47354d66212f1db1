// The functional layer: every op checks its arguments, allocates its result and runs one kernel
// pair. No gradients here (autograd/ops.h has the differentiable forms). Float dtypes are F64, F32,
// BF16; operands of one op share dtype and device. Errors are Error(op name).
#pragma once

#include <vector>

#include "tensor/kernels.h"
#include "tensor/tensor.h"

namespace nibble::ops {

Tensor contiguous(const Tensor& x);  // itself when it is already
Tensor reshape(const Tensor& x, const Shape& shape);

// Broadcasting binaries.
Tensor add(const Tensor& a, const Tensor& b);
Tensor sub(const Tensor& a, const Tensor& b);
Tensor mul(const Tensor& a, const Tensor& b);
Tensor div(const Tensor& a, const Tensor& b);
Tensor maximum(const Tensor& a, const Tensor& b);
Tensor minimum(const Tensor& a, const Tensor& b);
Tensor less(const Tensor& a, const Tensor& b);   // U8
Tensor equal(const Tensor& a, const Tensor& b);  // U8
Tensor where(const Tensor& mask, const Tensor& a, const Tensor& b);
// In place: y += alpha·x (same shape; x may be narrower than y).
void axpy(Tensor& y, const Tensor& x, double alpha = 1);
// y (+)= factor[0]·x, of one dtype.
void scale_by(Tensor& y, const Tensor& x, const Tensor& factor, bool accumulate);
Tensor affine(const Tensor& x, double scale, double shift = 0);

Tensor neg(const Tensor& x);
Tensor abs(const Tensor& x);
Tensor sign(const Tensor& x);
Tensor exp(const Tensor& x);
Tensor log(const Tensor& x);
Tensor sqrt(const Tensor& x);
Tensor rsqrt(const Tensor& x);
Tensor square(const Tensor& x);
Tensor sin(const Tensor& x);
Tensor cos(const Tensor& x);
Tensor tanh(const Tensor& x);
Tensor sigmoid(const Tensor& x);
Tensor erf(const Tensor& x);
Tensor relu(const Tensor& x);
Tensor clamp(const Tensor& x, double low, double high);
Tensor pow(const Tensor& x, double exponent);
Tensor silu(const Tensor& x);
Tensor silu_backward(const Tensor& dy, const Tensor& x);
enum class Gelu { Tanh, Erf };
Tensor gelu(const Tensor& x, Gelu kind = Gelu::Tanh);
Tensor gelu_backward(const Tensor& dy, const Tensor& x, Gelu kind);
Tensor dropout(const Tensor& x, double p, const RngKey& key);

// Reductions; `dims` empty means all; keepdim leaves extents of 1.
Tensor sum(const Tensor& x, const std::vector<int>& dims = {}, bool keepdim = false);
Tensor mean(const Tensor& x, const std::vector<int>& dims = {}, bool keepdim = false);
Tensor max(const Tensor& x, const std::vector<int>& dims = {}, bool keepdim = false);
Tensor min(const Tensor& x, const std::vector<int>& dims = {}, bool keepdim = false);
Tensor argmax(const Tensor& x, int dim = -1);  // I32
Tensor cumsum(const Tensor& x, int dim = -1);
Tensor sum_to(const Tensor& x, const Shape& shape);  // undoes a broadcast from `shape`
Tensor sum_squares(const Tensor& x);                 // F64 scalar, fixed order
bool all_finite(const Tensor& x);                    // synchronises
Tensor softmax(const Tensor& x);
Tensor softmax_backward(const Tensor& dy, const Tensor& y);
Tensor log_softmax(const Tensor& x);
Tensor log_softmax_backward(const Tensor& dy, const Tensor& y);

Tensor concat(const std::vector<Tensor>& parts, int dim);
Tensor stack(const std::vector<Tensor>& parts, int dim);
std::vector<Tensor> split(const Tensor& x, int parts, int dim);  // views
Tensor index_select(const Tensor& table, const Tensor& index);   // [..., C] of I32 [...]
void index_add(Tensor& table, const Tensor& index, const Tensor& x);
Tensor take_along_last(const Tensor& x, const Tensor& index);

// [..., M, K] × [..., K, N]; batch dimensions broadcast.
Tensor matmul(const Tensor& a, const Tensor& b);
// c (+)= a·b on matrices; transposed views welcome.
void matmul_into(Tensor& c, const Tensor& a, const Tensor& b, bool accumulate);
void add_bias(Tensor& y, const Tensor& bias);
void column_sum_into(Tensor& db, const Tensor& dy, bool accumulate);

struct NormResult {
  Tensor y, mean, rstd;  // mean is undefined for rms_norm
};
NormResult layer_norm(const Tensor& x, const Tensor& gamma, const Tensor& beta,
                      double epsilon = 1e-5);
NormResult rms_norm(const Tensor& x, const Tensor& gamma, double epsilon = 1e-6);

struct AttentionResult {
  Tensor out, lse;
};
AttentionResult attention(const Tensor& q, const Tensor& k, const Tensor& v,
                          const AttentionOptions& options);

// Cross-entropy of rows (kernels.h).
struct CrossEntropy {
  Tensor losses, lse;
};
// Throws unless every target is -1 (ignored) or a class. Targets on a GPU are not read: that would
// synchronise.
void check_targets(const Tensor& targets, std::int64_t classes);
CrossEntropy cross_entropy(const Tensor& logits, const Tensor& targets);
void cross_entropy_backward(Tensor& dlogits, const Tensor& logits, const Tensor& targets,
                            const Tensor& lse, const Tensor& scale);
// Returns the losses; logits become their gradient times scale[0].
Tensor cross_entropy_gradient(Tensor& logits, const Tensor& targets, const Tensor& scale);

}  // namespace nibble::ops
