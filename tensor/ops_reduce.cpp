#include <array>

#include "tensor/op_checks.h"
#include "tensor/ops.h"

namespace nibble::ops {
namespace {

// A reduction as kernels see it: contiguous x as [outer, n, inner], and the result's shape.
struct Fold {
  Tensor x;
  std::int64_t outer = 1, n = 1, inner = 1;
  Shape result;
};

// The dimensions of x in the order `order`.
Tensor permuted(const Tensor& x, std::array<int, Shape::kMaxRank> order) {
  Tensor y = x;
  std::array<int, Shape::kMaxRank> at{0, 1, 2, 3, 4, 5};  // which dimension of x sits where
  for (int i = 0; i < x.rank(); ++i) {
    int j = i;
    while (at[j] != order[i]) ++j;
    if (i == j) continue;
    y = y.transpose(i, j);
    std::swap(at[i], at[j]);
  }
  return y;
}

Fold fold(const char* op, const Tensor& x, const std::vector<int>& dims, bool keepdim) {
  check_float(op, x);
  std::array<bool, Shape::kMaxRank> reduced{};
  for (const int d : dims) {
    NIBBLE_CHECK(d >= -x.rank() && d < x.rank(), op, "dimension {} is out of range for {}", d,
                 describe(x));
    bool& flag = reduced[x.shape().index(d)];
    NIBBLE_CHECK(!flag, op, "dimension {} is named twice for {}", d, describe(x));
    flag = true;
  }
  if (dims.empty()) reduced.fill(true);

  Fold f;
  int first = x.rank(), last = -1;  // of the reduced dimensions that matter
  for (int d = 0; d < x.rank(); ++d) {
    if (!reduced[d])
      f.result.push_back(x.size(d));
    else if (keepdim)
      f.result.push_back(1);
    if (reduced[d] && x.size(d) != 1) {
      first = std::min(first, d);
      last = d;
    }
  }
  bool adjacent = true;
  for (int d = first; d <= last; ++d) adjacent = adjacent && (reduced[d] || x.size(d) == 1);
  if (adjacent) {
    f.x = contiguous(x);
    for (int d = 0; d < x.rank(); ++d)
      (d < first ? f.outer : d <= last ? f.n : f.inner) *= x.size(d);
    return f;
  }
  std::array<int, Shape::kMaxRank> order{};
  int count = 0;
  for (const bool wanted : {false, true})
    for (int d = 0; d < x.rank(); ++d)
      if (reduced[d] == wanted) {
        order[count++] = d;
        (wanted ? f.n : f.outer) *= x.size(d);
      }
  f.x = contiguous(permuted(x, order));
  return f;
}

// [outer, n, inner] around one dimension.
Fold along(const char* op, const Tensor& x, int dim) { return fold(op, x, {dim}, false); }

void check_not_empty(const char* op, const Fold& f) {
  NIBBLE_CHECK(f.n > 0 || f.outer * f.inner == 0, op, "no elements to reduce: got shape {}",
               f.x.shape());
}

Tensor softmax_input(const char* op, const Tensor& x) {
  check_float(op, x);
  NIBBLE_CHECK(x.rank() >= 1, op, "got a scalar, expected at least one dimension");
  return contiguous(x);
}

}  // namespace

Tensor sum(const Tensor& x, const std::vector<int>& dims, bool keepdim) {
  const Fold f = fold("sum", x, dims, keepdim);
  Tensor y = Tensor::empty(f.result, x.dtype(), x.device());
  NIBBLE_DISPATCH(y.device(), sum(y, f.x, f.outer, f.n, f.inner));
  return y;
}

Tensor mean(const Tensor& x, const std::vector<int>& dims, bool keepdim) {
  const Fold f = fold("mean", x, dims, keepdim);
  Tensor y = Tensor::empty(f.result, x.dtype(), x.device());
  NIBBLE_DISPATCH(y.device(), sum(y, f.x, f.outer, f.n, f.inner));
  return affine(y, 1.0 / static_cast<double>(f.n));
}

Tensor max(const Tensor& x, const std::vector<int>& dims, bool keepdim) {
  const Fold f = fold("max", x, dims, keepdim);
  check_not_empty("max", f);
  Tensor y = Tensor::empty(f.result, x.dtype(), x.device());
  NIBBLE_DISPATCH(y.device(), max(y, f.x, f.outer, f.n, f.inner));
  return y;
}

Tensor min(const Tensor& x, const std::vector<int>& dims, bool keepdim) {
  check_float("min", x);
  const Fold f = fold("min", neg(x), dims, keepdim);  // negation is exact
  check_not_empty("min", f);
  Tensor y = Tensor::empty(f.result, x.dtype(), x.device());
  NIBBLE_DISPATCH(y.device(), max(y, f.x, f.outer, f.n, f.inner));
  return neg(y);
}

Tensor argmax(const Tensor& x, int dim) {
  const Fold f = along("argmax", x, dim);
  check_not_empty("argmax", f);
  Tensor y = Tensor::empty(f.result, DType::I32, x.device());
  NIBBLE_DISPATCH(y.device(), argmax(y, f.x, f.outer, f.n, f.inner));
  return y;
}

Tensor cumsum(const Tensor& x, int dim) {
  const Fold f = along("cumsum", x, dim);
  Tensor y = Tensor::empty(x.shape(), x.dtype(), x.device());
  NIBBLE_DISPATCH(y.device(), cumsum(y, f.x, f.outer, f.n, f.inner));
  return y;
}

Tensor sum_to(const Tensor& x, const Shape& shape) {
  NIBBLE_CHECK(broadcast_shapes("sum_to", x.shape(), shape) == x.shape(), "sum_to",
               "got {}, which is no broadcast of {}", x.shape(), shape);
  const int extra = x.rank() - shape.rank();
  std::vector<int> dims;
  for (int d = 0; d < x.rank(); ++d)
    if (d < extra || (shape[d - extra] == 1 && x.size(d) != 1)) dims.push_back(d);
  return dims.empty() ? x : sum(x, dims).view(shape);
}

Tensor sum_squares(const Tensor& x) {
  check_float("sum_squares", x);
  const Tensor in = contiguous(x);
  Tensor y = Tensor::empty({}, DType::F64, x.device());
  NIBBLE_DISPATCH(y.device(), sum_squares(y, in, false));
  return y;
}

bool all_finite(const Tensor& x) {
  check_float("all_finite", x);
  if (x.device().is_meta()) return true;
  const Tensor in = contiguous(x);
  Tensor y = Tensor::empty({}, DType::U8, x.device());
  NIBBLE_DISPATCH(y.device(), all_finite(y, in));
  return y.item() != 0;
}

Tensor softmax(const Tensor& x) {
  const Tensor in = softmax_input("softmax", x);
  Tensor y = Tensor::empty(x.shape(), x.dtype(), x.device());
  NIBBLE_DISPATCH(y.device(), softmax(y, in));
  return y;
}

Tensor softmax_backward(const Tensor& dy, const Tensor& y) {
  check_same_kind("softmax_backward", dy, y);
  check_same_shape("softmax_backward", dy, y);
  const Tensor out = softmax_input("softmax_backward", y), grad = contiguous(dy);
  Tensor dx = Tensor::empty(y.shape(), y.dtype(), y.device());
  NIBBLE_DISPATCH(dx.device(), softmax_backward(dx, grad, out));
  return dx;
}

Tensor log_softmax(const Tensor& x) {
  const Tensor in = softmax_input("log_softmax", x);
  Tensor y = Tensor::empty(x.shape(), x.dtype(), x.device());
  NIBBLE_DISPATCH(y.device(), log_softmax(y, in));
  return y;
}

Tensor log_softmax_backward(const Tensor& dy, const Tensor& y) {
  check_same_kind("log_softmax_backward", dy, y);
  check_same_shape("log_softmax_backward", dy, y);
  const Tensor out = softmax_input("log_softmax_backward", y), grad = contiguous(dy);
  Tensor dx = Tensor::empty(y.shape(), y.dtype(), y.device());
  NIBBLE_DISPATCH(dx.device(), log_softmax_backward(dx, grad, out));
  return dx;
}

}  // namespace nibble::ops
