// Differentiable operations: the forms of tensor/ops.h on Vars. Each is one node next to its
// forward, with the gradient's formula above `backward`. Shapes, dtypes and errors are those of
// nibble::ops. Where an operation takes what its reader wants (autograd/wanted.h), its result is an
// Encoded if a kernel serves, without the values unless they are wanted too.
#pragma once

#include <optional>
#include <vector>

#include "autograd/tape.h"
#include "tensor/ops.h"

namespace nibble {

// Elementwise; binaries broadcast.
Var add(const Var& a, const Var& b);
Var sub(const Var& a, const Var& b);
Var mul(const Var& a, const Var& b);
Var div(const Var& a, const Var& b);
Var maximum(const Var& a, const Var& b);  // the gradient of equal elements goes to a
Var minimum(const Var& a, const Var& b);
Var where(const Tensor& mask, const Var& a, const Var& b);
Var affine(const Var& x, double scale, double shift = 0);
inline Var operator+(const Var& a, const Var& b) { return add(a, b); }
inline Var operator-(const Var& a, const Var& b) { return sub(a, b); }
inline Var operator*(const Var& a, const Var& b) { return mul(a, b); }
inline Var operator/(const Var& a, const Var& b) { return div(a, b); }
inline Var operator*(const Var& a, double s) { return affine(a, s); }
inline Var operator*(double s, const Var& a) { return affine(a, s); }
inline Var operator+(const Var& a, double s) { return affine(a, 1, s); }
inline Var operator-(const Var& a) { return affine(a, -1); }
Var abs(const Var& x);
Var exp(const Var& x);
Var log(const Var& x);
Var sqrt(const Var& x);
Var rsqrt(const Var& x);
Var square(const Var& x);
Var sin(const Var& x);
Var cos(const Var& x);
Var tanh(const Var& x);
Var sigmoid(const Var& x);
Var erf(const Var& x);
Var relu(const Var& x);
Var clamp(const Var& x, double low, double high);
Var pow(const Var& x, double exponent);
Var silu(const Var& x);
Var gelu(const Var& x, ops::Gelu kind = ops::Gelu::Tanh, const std::optional<Wanted>& wanted = {});
Var cast(const Var& x, DType dtype);
// Zeroes elements with probability p and scales the rest; the identity outside training
// (ForwardContext) and for p = 0. The mask is drawn again in backward, not stored.
Var dropout(const Var& x, double p);

// Reductions; `dims` empty means all.
Var sum(const Var& x, const std::vector<int>& dims = {}, bool keepdim = false);
Var mean(const Var& x, const std::vector<int>& dims = {}, bool keepdim = false);
Var max(const Var& x, const std::vector<int>& dims = {},
        bool keepdim = false);  // ties share equally
Var min(const Var& x, const std::vector<int>& dims = {}, bool keepdim = false);
Var cumsum(const Var& x, int dim = -1);
Var softmax(const Var& x);
Var log_softmax(const Var& x);

// Shapes.
Var reshape(const Var& x, const Shape& shape);
Var transpose(const Var& x, int a, int b);
Var permute(const Var& x, std::initializer_list<int> dims);
Var slice(const Var& x, int dim, std::int64_t begin, std::int64_t end);
Var select(const Var& x, int dim, std::int64_t index);
Var expand(const Var& x, const Shape& shape);
Var squeeze(const Var& x, int dim);
Var unsqueeze(const Var& x, int dim);
Var concat(const std::vector<Var>& parts, int dim);
Var stack(const std::vector<Var>& parts, int dim);
Var take_along_last(const Var& x, const Tensor& index);

// y[..., :] = table[ids[...], :]; the table's gradient is summed in ascending position.
Var embedding(const Tensor& ids, Parameter& table);
Var matmul(const Var& a, const Var& b);
Var layer_norm(const Var& x, Parameter& gamma, Parameter* beta, double epsilon = 1e-5,
               const std::optional<Wanted>& wanted = {});
// x + r and its norm, by one pass where what is wanted allows it; `norm_module` is the path under
// which the norm is recorded.
struct AddedNorm {
  Var sum, norm;
};
AddedNorm add_layer_norm(const Var& x, const Var& r, Parameter& gamma, Parameter* beta,
                         double epsilon, const std::optional<Wanted>& wanted,
                         const std::string& norm_module);
Var rms_norm(const Var& x, Parameter& gamma, double epsilon = 1e-6);

// Multi-head attention on packed projections qkv [B, T, 3·C] (order q, k, v; C = heads · D) → [B,
// T, C], in O(T) memory. Dropout p on the probabilities during training.
Var self_attention(const Var& qkv, int heads, bool causal = true, double dropout_p = 0,
                   const std::optional<Wanted>& wanted = {});
// q [B, T, H, D]; k, v [B, S, Hkv, D], Hkv divides H → [B, T, H, D].
Var attention(const Var& q, const Var& k, const Var& v, bool causal = true, double dropout_p = 0);

// Mean over rows of −log softmax(logits)[target]: logits [..., V], targets [...] I32, −1 = ignored.
// A scalar in F32 (F64 for F64 logits); 0 when all are ignored.
Var cross_entropy(const Var& logits, const Tensor& targets);
Var mse_loss(const Var& prediction, const Var& target);

// x̂ = fake_quantize(x) with the straight-through gradient.
Var fake_quantize(const Var& x, const QuantSpec& spec);

}  // namespace nibble
