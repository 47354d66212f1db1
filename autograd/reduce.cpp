#include "autograd/ops.h"

namespace nibble {
namespace {

std::vector<int> all_dims_if_empty(const Var& x, std::vector<int> dims) {
  if (dims.empty())
    for (int i = 0; i < x.shape().rank(); ++i) dims.push_back(i);
  return dims;
}

// The shape of x with the reduced extents 1: what broadcasts against x.
Shape kept_shape(const Var& x, const std::vector<int>& dims) {
  Shape kept = x.shape();
  for (const int d : all_dims_if_empty(x, dims)) kept[d] = 1;
  return kept;
}

// y = s·Σ x;  dx = s·dy, broadcast
struct Sum {
  static constexpr const char* name = "sum";
  Shape kept;
  double scale;
  void backward(Grads& g) const {
    Tensor dy = ops::contiguous(g.out()).view(kept);
    if (scale != 1) dy = ops::affine(dy, scale);
    g.add(0, dy.expand(g.input_shape(0)));
  }
};

// dx = dy · [x = y] / #[x = y]: equal maxima share the gradient
struct Max {
  static constexpr const char* name = "max";
  Saved x, y;
  std::vector<int> dims;
  Shape kept;
  void backward(Grads& g) const {
    const DType dtype = x.get().dtype();
    const Tensor chosen = ops::equal(x, y.get().view(kept).expand(x.get().shape())).to(dtype);
    const Tensor count = ops::sum(chosen, dims, true);
    g.add(0, ops::mul(chosen, ops::div(ops::contiguous(g.out()).view(kept), count.view(kept))));
  }
};

// dx_j = Σ_{i ≥ j} dy_i = total − cumsum + dy
struct Cumsum {
  static constexpr const char* name = "cumsum";
  int dim;
  void backward(Grads& g) const {
    const Tensor& dy = g.out();
    g.add(0, ops::add(ops::sub(ops::sum(dy, {dim}, true), ops::cumsum(dy, dim)), dy));
  }
};

// dx = y(dy − Σ dy·y)
struct Softmax {
  static constexpr const char* name = "softmax";
  Saved y;
  void backward(Grads& g) const { g.add(0, ops::softmax_backward(ops::contiguous(g.out()), y)); }
};

// dx = dy − softmax(x)·Σ dy
struct LogSoftmax {
  static constexpr const char* name = "log_softmax";
  Saved y;
  void backward(Grads& g) const {
    g.add(0, ops::log_softmax_backward(ops::contiguous(g.out()), y));
  }
};

Var scaled_sum(const Var& x, const std::vector<int>& dims, bool keepdim, bool mean) {
  double scale = 1;
  if (mean)
    for (const int d : all_dims_if_empty(x, dims)) scale /= static_cast<double>(x.size(d));
  Tensor y = mean ? ops::mean(x.tensor(), dims, keepdim) : ops::sum(x.tensor(), dims, keepdim);
  return record<Sum>({&x}, std::move(y), [&] { return Sum{kept_shape(x, dims), scale}; });
}

}  // namespace

Var sum(const Var& x, const std::vector<int>& dims, bool keepdim) {
  return scaled_sum(x, dims, keepdim, false);
}
Var mean(const Var& x, const std::vector<int>& dims, bool keepdim) {
  return scaled_sum(x, dims, keepdim, true);
}
Var max(const Var& x, const std::vector<int>& dims, bool keepdim) {
  const Tensor y = ops::max(x.tensor(), dims, keepdim);
  return record<Max>({&x}, y, [&] {
    return Max{Saved(x.tensor()), Saved(y), dims, kept_shape(x, dims)};
  });
}
Var min(const Var& x, const std::vector<int>& dims, bool keepdim) {
  return -max(-x, dims, keepdim);
}
Var cumsum(const Var& x, int dim) {
  return record<Cumsum>({&x}, ops::cumsum(x.tensor(), dim), [&] { return Cumsum{dim}; });
}
Var softmax(const Var& x) {
  const Tensor y = ops::softmax(x.tensor());
  return record<Softmax>({&x}, y, [&] { return Softmax{Saved(y)}; });
}
Var log_softmax(const Var& x) {
  const Tensor y = ops::log_softmax(x.tensor());
  return record<LogSoftmax>({&x}, y, [&] { return LogSoftmax{Saved(y)}; });
}

}  // namespace nibble
