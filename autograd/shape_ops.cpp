// Views and gathers. The gradient of a view is the inverse view of dy, or dy placed into zeros.
#include <array>

#include "autograd/ops.h"

namespace nibble {
namespace {

struct Reshape {
  static constexpr const char* name = "reshape";
  void backward(Grads& g) const { g.add(0, ops::contiguous(g.out()).view(g.input_shape(0))); }
};

struct Transpose {
  static constexpr const char* name = "transpose";
  int a, b;
  void backward(Grads& g) const { g.add(0, ops::contiguous(g.out().transpose(a, b))); }
};

struct Permute {
  static constexpr const char* name = "permute";
  std::array<int, Shape::kMaxRank> dims;
  int rank;
  void backward(Grads& g) const {
    Tensor dx = Tensor::empty(g.input_shape(0), g.out().dtype(), g.out().device());
    // dx permuted as x was is dy: copying into that view inverts the permutation.
    Tensor view = dx;
    std::array<int, Shape::kMaxRank> at{};
    for (int i = 0; i < rank; ++i) at[static_cast<std::size_t>(i)] = i;
    for (int i = 0; i < rank; ++i)
      for (int j = i; j < rank; ++j)
        if (at[static_cast<std::size_t>(j)] == dims[static_cast<std::size_t>(i)]) {
          if (i != j) view = view.transpose(i, j);
          std::swap(at[static_cast<std::size_t>(i)], at[static_cast<std::size_t>(j)]);
          break;
        }
    view.copy_from(g.out());
    g.add(0, dx);
  }
};

struct Slice {
  static constexpr const char* name = "slice";
  int dim;
  std::int64_t begin, end;
  void backward(Grads& g) const {
    Tensor dx = Tensor::zeros(g.input_shape(0), g.out().dtype(), g.out().device());
    Tensor part = dx.slice(dim, begin, end);
    part.copy_from(g.out());
    g.add(0, dx);
  }
};

struct Expand {  // Grads::add sums back to the input's shape
  static constexpr const char* name = "expand";
  void backward(Grads& g) const { g.add(0, g.out()); }
};

struct Concat {
  static constexpr const char* name = "concat";
  int dim;
  std::vector<std::int64_t> bounds;  // part i is [bounds[i], bounds[i + 1])
  void backward(Grads& g) const {
    for (std::size_t i = 0; i + 1 < bounds.size(); ++i)
      if (const int part = static_cast<int>(i); g.wants(part))
        g.add(part, ops::contiguous(g.out().slice(dim, bounds[i], bounds[i + 1])));
  }
};

// dx[i, index[i]] = dy[i], zero elsewhere
struct TakeAlongLast {
  static constexpr const char* name = "take_along_last";
  Saved index;
  void backward(Grads& g) const {
    Tensor dx = Tensor::zeros(g.input_shape(0), g.out().dtype(), g.out().device());
    const Tensor dy = ops::contiguous(g.out());
    NIBBLE_DISPATCH(dx.device(), take_along_last_backward(dx, dy, index));
    g.add(0, dx);
  }
};

// dtable[ids[i], :] += dy[i, :]
struct EmbeddingNode {
  static constexpr const char* name = "embedding";
  Saved ids;
  void backward(Grads& g) const {
    Grads::Sink sink = g.sink(0);
    if (!sink.accumulate) sink.destination.fill(0);
    const Tensor dy = ops::contiguous(g.out()).flatten_rows();
    ops::index_add(sink.destination, ids, dy.to(sink.destination.dtype()));
  }
};

}  // namespace

Var reshape(const Var& x, const Shape& shape) {
  return record<Reshape>({&x}, ops::reshape(x.tensor(), shape), [] { return Reshape{}; });
}
Var transpose(const Var& x, int a, int b) {
  return record<Transpose>({&x}, x.tensor().transpose(a, b), [&] { return Transpose{a, b}; });
}
Var permute(const Var& x, std::initializer_list<int> dims) {
  return record<Permute>({&x}, x.tensor().permute(dims), [&] {
    Permute node{{}, x.shape().rank()};
    int i = 0;
    for (const int d : dims) node.dims[static_cast<std::size_t>(i++)] = x.shape().index(d);
    return node;
  });
}
Var slice(const Var& x, int dim, std::int64_t begin, std::int64_t end) {
  return record<Slice>({&x}, x.tensor().slice(dim, begin, end), [&] {
    return Slice{dim, begin, end};
  });
}
Var select(const Var& x, int dim, std::int64_t index) {
  return squeeze(slice(x, dim, index, index + 1), dim);
}
Var expand(const Var& x, const Shape& shape) {
  return record<Expand>({&x}, x.tensor().expand(shape), [] { return Expand{}; });
}
Var squeeze(const Var& x, int dim) {
  return record<Reshape>({&x}, x.tensor().squeeze(dim), [] { return Reshape{}; });
}
Var unsqueeze(const Var& x, int dim) {
  return record<Reshape>({&x}, x.tensor().unsqueeze(dim), [] { return Reshape{}; });
}

Var concat(const std::vector<Var>& parts, int dim) {
  std::vector<Tensor> tensors;
  std::vector<const Var*> inputs;
  for (const Var& part : parts) {
    tensors.push_back(part.tensor());
    inputs.push_back(&part);
  }
  return record<Concat>(std::span<const Var* const>(inputs), ops::concat(tensors, dim), [&] {
    Concat node{dim, {0}};
    for (const Tensor& t : tensors) node.bounds.push_back(node.bounds.back() + t.size(dim));
    return node;
  });
}
Var stack(const std::vector<Var>& parts, int dim) {
  std::vector<Var> rows;
  for (const Var& p : parts) rows.push_back(unsqueeze(p, dim));
  return concat(rows, dim);
}
Var take_along_last(const Var& x, const Tensor& index) {
  return record<TakeAlongLast>({&x}, ops::take_along_last(x.tensor(), index),
                               [&] { return TakeAlongLast{Saved(ops::contiguous(index))}; });
}
Var embedding(const Tensor& ids, Parameter& table) {
  const Var t(table);
  return record<EmbeddingNode>({&t}, ops::index_select(t.tensor(), ids), [&] {
    return EmbeddingNode{Saved(ops::contiguous(ids).view({ids.numel()}))};
  });
}

}  // namespace nibble
