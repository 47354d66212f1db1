#include "autograd/context.h"
#include "autograd/ops.h"

namespace nibble {
namespace {

// y = a + b;  da = dy, db = dy (summed back to their shapes by Grads::add)
struct Add {
  static constexpr const char* name = "add";
  void backward(Grads& g) const {
    g.add(0, g.out());
    g.add(1, g.out());
  }
};

// y = a − b;  da = dy, db = −dy
struct Sub {
  static constexpr const char* name = "sub";
  void backward(Grads& g) const {
    g.add(0, g.out());
    if (g.wants(1)) g.add(1, ops::neg(g.out()));
  }
};

// y = a·b;  da = dy·b, db = dy·a
struct Mul {
  static constexpr const char* name = "mul";
  Saved a, b;
  void backward(Grads& g) const {
    if (g.wants(0)) g.add(0, ops::mul(g.out(), b));
    if (g.wants(1)) g.add(1, ops::mul(g.out(), a));
  }
};

// y = a/b;  da = dy/b, db = −dy·y/b
struct Div {
  static constexpr const char* name = "div";
  Saved b, y;
  void backward(Grads& g) const {
    const Tensor q = ops::div(g.out(), b);
    g.add(0, q);
    if (g.wants(1)) g.add(1, ops::neg(ops::mul(q, y)));
  }
};

// y = mask ? a : b;  da = mask ? dy : 0, db = mask ? 0 : dy
struct Where {
  static constexpr const char* name = "where";
  Saved mask;
  void backward(Grads& g) const {
    const Tensor zero = Tensor::zeros({}, g.out().dtype(), g.out().device());
    if (g.wants(0)) g.add(0, ops::where(mask, g.out(), zero));
    if (g.wants(1)) g.add(1, ops::where(mask, zero, g.out()));
  }
};

// y = max(a, b);  da = dy where a = y, db = dy elsewhere
struct Maximum : Where {
  static constexpr const char* name = "maximum";
};
struct Minimum : Where {
  static constexpr const char* name = "minimum";
};

// y = scale·x + shift;  dx = scale·dy
struct Affine {
  static constexpr const char* name = "affine";
  double scale;
  void backward(Grads& g) const { g.add(0, ops::affine(g.out(), scale)); }
};

// dx in the dtype of x
struct Cast {
  static constexpr const char* name = "cast";
  DType from;
  void backward(Grads& g) const { g.add(0, g.out().to(from)); }
};

// dx = mask(key) · dy / (1 − p): the forward again
struct DropoutNode {
  static constexpr const char* name = "dropout";
  double p;
  RngKey key;
  void backward(Grads& g) const { g.add(0, ops::dropout(ops::contiguous(g.out()), p, key)); }
};

// dx = dy: straight through
struct FakeQuantize {
  static constexpr const char* name = "fake_quantize";
  void backward(Grads& g) const { g.add(0, g.out()); }
};

}  // namespace

Var add(const Var& a, const Var& b) {
  return record<Add>({&a, &b}, ops::add(a.tensor(), b.tensor()), [] { return Add{}; });
}
Var sub(const Var& a, const Var& b) {
  return record<Sub>({&a, &b}, ops::sub(a.tensor(), b.tensor()), [] { return Sub{}; });
}
Var mul(const Var& a, const Var& b) {
  return record<Mul>({&a, &b}, ops::mul(a.tensor(), b.tensor()), [&] {
    return Mul{b.tracked() ? Saved(a.tensor()) : Saved(),
               a.tracked() ? Saved(b.tensor()) : Saved()};
  });
}
Var div(const Var& a, const Var& b) {
  const Tensor y = ops::div(a.tensor(), b.tensor());
  return record<Div>({&a, &b}, y, [&] { return Div{Saved(b.tensor()), Saved(y)}; });
}
Var maximum(const Var& a, const Var& b) {
  const Tensor y = ops::maximum(a.tensor(), b.tensor());
  return record<Maximum>({&a, &b}, y, [&] { return Maximum{{Saved(ops::equal(a.tensor(), y))}}; });
}
Var minimum(const Var& a, const Var& b) {
  const Tensor y = ops::minimum(a.tensor(), b.tensor());
  return record<Minimum>({&a, &b}, y, [&] { return Minimum{{Saved(ops::equal(a.tensor(), y))}}; });
}
Var where(const Tensor& mask, const Var& a, const Var& b) {
  return record<Where>({&a, &b}, ops::where(mask, a.tensor(), b.tensor()),
                       [&] { return Where{Saved(mask)}; });
}
Var affine(const Var& x, double scale, double shift) {
  return record<Affine>({&x}, ops::affine(x.tensor(), scale, shift), [&] { return Affine{scale}; });
}
Var cast(const Var& x, DType dtype) {
  if (x.dtype() == dtype) return x;
  return record<Cast>({&x}, x.tensor().to(dtype), [&] { return Cast{x.dtype()}; });
}
Var dropout(const Var& x, double p) {
  NIBBLE_CHECK(p >= 0 && p < 1, "dropout", "got p = {}, expected [0, 1)", p);
  if (p == 0 || !forward_context().training) return x;
  const RngKey key = random_key("dropout");
  return record<DropoutNode>({&x}, ops::dropout(ops::contiguous(x.tensor()), p, key), [&] {
    return DropoutNode{p, key};
  });
}
Var fake_quantize(const Var& x, const QuantSpec& spec) {
  return record<FakeQuantize>({&x},
                              nibble::fake_quantize(x.tensor(), spec, random_key("fake_quantize")),
                              [] { return FakeQuantize{}; });
}

}  // namespace nibble
