// Functions of one variable. Most gradients are dy times a derivative that costs two or three ops.
#include <numbers>

#include "autograd/ops.h"
#include "autograd/origin.h"
#include "tensor/activation_sums.h"

namespace nibble {
namespace {

// A node that saves one tensor (the input or the output, as the formula needs) and multiplies dy by
// Derivative::of(saved).
template <class Derivative>
struct Unary {
  static constexpr const char* name = Derivative::name;
  Saved saved;
  void backward(Grads& g) const { g.add(0, ops::mul(g.out(), Derivative::of(saved))); }
};

struct Abs {  // sign(x)
  static constexpr const char* name = "abs";
  static Tensor of(const Tensor& x) { return ops::sign(x); }
};
struct Exp {  // y
  static constexpr const char* name = "exp";
  static Tensor of(const Tensor& y) { return y; }
};
struct Log {  // 1/x
  static constexpr const char* name = "log";
  static Tensor of(const Tensor& x) { return ops::pow(x, -1); }
};
struct Sqrt {  // 1/(2y)
  static constexpr const char* name = "sqrt";
  static Tensor of(const Tensor& y) { return ops::affine(ops::pow(y, -1), 0.5); }
};
struct Rsqrt {  // −y³/2
  static constexpr const char* name = "rsqrt";
  static Tensor of(const Tensor& y) { return ops::affine(ops::mul(ops::square(y), y), -0.5); }
};
struct Square {  // 2x
  static constexpr const char* name = "square";
  static Tensor of(const Tensor& x) { return ops::affine(x, 2); }
};
struct Sin {  // cos x
  static constexpr const char* name = "sin";
  static Tensor of(const Tensor& x) { return ops::cos(x); }
};
struct Cos {  // −sin x
  static constexpr const char* name = "cos";
  static Tensor of(const Tensor& x) { return ops::neg(ops::sin(x)); }
};
struct Tanh {  // 1 − y²
  static constexpr const char* name = "tanh";
  static Tensor of(const Tensor& y) { return ops::affine(ops::square(y), -1, 1); }
};
struct Sigmoid {  // y(1 − y)
  static constexpr const char* name = "sigmoid";
  static Tensor of(const Tensor& y) { return ops::mul(y, ops::affine(y, -1, 1)); }
};
struct Erf {  // 2/√π · exp(−x²)
  static constexpr const char* name = "erf";
  static Tensor of(const Tensor& x) {
    return ops::affine(ops::exp(ops::neg(ops::square(x))), 2 * std::numbers::inv_sqrtpi);
  }
};
struct Relu {  // 1 where y > 0
  static constexpr const char* name = "relu";
  static Tensor of(const Tensor& y) { return ops::sign(y); }
};

template <class Derivative>
Var unary(const Var& x, Tensor y, const Tensor& saved) {
  return record<Unary<Derivative>>({&x}, std::move(y),
                                   [&] { return Unary<Derivative>{Saved(saved)}; });
}

// dx = dy where low ≤ x ≤ high
struct Clamp {
  static constexpr const char* name = "clamp";
  Saved x, y;
  void backward(Grads& g) const {
    const Tensor zero = Tensor::zeros({}, g.out().dtype(), g.out().device());
    g.add(0, ops::where(ops::equal(x, y), g.out(), zero));
  }
};

// dx = dy · e·x^(e−1), which is 0 for e = 0 also at x = 0
struct Pow {
  static constexpr const char* name = "pow";
  Saved x;
  double exponent;
  void backward(Grads& g) const {
    const Tensor power = ops::pow(x, exponent == 0 ? 0 : exponent - 1);
    g.add(0, ops::mul(g.out(), ops::affine(power, exponent)));
  }
};

// dx = dy · σ(x)(1 + x(1 − σ(x)))
struct Silu {
  static constexpr const char* name = "silu";
  Saved x;
  void backward(Grads& g) const { g.add(0, ops::silu_backward(ops::contiguous(g.out()), x)); }
};

// Tanh: y = x/2·(1 + tanh u), u = √(2/π)(x + 0.044715x³); Erf: y = x·Φ(x), dx = dy(Φ(x) + x·φ(x))
struct GeluNode {
  static constexpr const char* name = "gelu";
  Saved x;
  ops::Gelu kind;
  void backward(Grads& g) const {
    const Tensor dy = ops::contiguous(g.out());
    if (const Wanted* wanted = kind == ops::Gelu::Tanh ? g.wanted(0) : nullptr) {
      PairSource source;
      source.kind = PairSource::Kind::GeluBackward;
      source.x = x.get().flatten_rows();
      source.dy = dy.flatten_rows();
      if (auto dx = encode_pair(source, dy.shape(), *wanted)) return g.add(0, std::move(*dx));
    }
    if (kind == ops::Gelu::Tanh && g.wants_column_sums(0)) {
      ops::SummedGradient dx = ops::gelu_backward_sums(dy, x);
      return g.add(0, std::move(dx.dx), std::move(dx.column_sums));
    }
    g.add(0, ops::gelu_backward(dy, x, kind));
  }
};

}  // namespace

Var abs(const Var& x) { return unary<Abs>(x, ops::abs(x.tensor()), x.tensor()); }
Var exp(const Var& x) {
  const Tensor y = ops::exp(x.tensor());
  return unary<Exp>(x, y, y);
}
Var log(const Var& x) { return unary<Log>(x, ops::log(x.tensor()), x.tensor()); }
Var sqrt(const Var& x) {
  const Tensor y = ops::sqrt(x.tensor());
  return unary<Sqrt>(x, y, y);
}
Var rsqrt(const Var& x) {
  const Tensor y = ops::rsqrt(x.tensor());
  return unary<Rsqrt>(x, y, y);
}
Var square(const Var& x) { return unary<Square>(x, ops::square(x.tensor()), x.tensor()); }
Var sin(const Var& x) { return unary<Sin>(x, ops::sin(x.tensor()), x.tensor()); }
Var cos(const Var& x) { return unary<Cos>(x, ops::cos(x.tensor()), x.tensor()); }
Var tanh(const Var& x) {
  const Tensor y = ops::tanh(x.tensor());
  return unary<Tanh>(x, y, y);
}
Var sigmoid(const Var& x) {
  const Tensor y = ops::sigmoid(x.tensor());
  return unary<Sigmoid>(x, y, y);
}
Var erf(const Var& x) { return unary<Erf>(x, ops::erf(x.tensor()), x.tensor()); }
Var relu(const Var& x) {
  const Tensor y = ops::relu(x.tensor());
  return unary<Relu>(x, y, y);
}
Var clamp(const Var& x, double low, double high) {
  const Tensor y = ops::clamp(x.tensor(), low, high);
  return record<Clamp>({&x}, y, [&] { return Clamp{Saved(x.tensor()), Saved(y)}; });
}
Var pow(const Var& x, double exponent) {
  return record<Pow>({&x}, ops::pow(x.tensor(), exponent), [&] {
    return Pow{Saved(x.tensor()), exponent};
  });
}
Var silu(const Var& x) {
  const Tensor input = ops::contiguous(x.tensor());
  return record<Silu>({&x}, ops::silu(input), [&] { return Silu{Saved(input)}; });
}
Var gelu(const Var& x, ops::Gelu kind, const std::optional<Wanted>& wanted) {
  const Tensor input = ops::contiguous(x.tensor());
  std::optional<Encoded> codes;
  if (wanted && kind == ops::Gelu::Tanh) {
    PairSource source;
    source.kind = PairSource::Kind::Gelu;
    source.x = input.flatten_rows();
    codes = encode_pair(source, input.shape(), *wanted);
  }
  const Saved saved(x, input);
  Var out = record<GeluNode>({&x}, codes ? Value(std::move(*codes)) : ops::gelu(input, kind), [&] {
    return GeluNode{saved, kind};
  });
  if (Tape::active() && kind == ops::Gelu::Tanh) {
    PairSource source;
    source.kind = PairSource::Kind::Gelu;
    out.set_origin(std::make_shared<Origin>(Origin{std::move(source), saved}));
  }
  return out;
}

}  // namespace nibble
