#include "autograd/gradcheck.h"

#include "autograd/linear.h"
#include "autograd/ops.h"
#include "tensor_testing.h"

using namespace nibble;
using namespace nibble::testing;

namespace {

// x² with a gradient that is wrong for one element, or not finite there.
struct Crooked {
  static constexpr const char* name = "crooked";
  Saved x;
  double at_five;
  void backward(Grads& g) const {
    Tensor dx = ops::affine(ops::mul(g.out(), x), 2);
    dx.data<double>()[5] += at_five;
    g.add(0, dx);
  }
};
Var crooked(const Var& x, double at_five) {
  return record<Crooked>({&x}, ops::square(x.tensor()), [&] {
    return Crooked{Saved(x.tensor()), at_five};
  });
}

}  // namespace

TEST_CASE("gradcheck: finds one wrong element and says where") {
  const Tensor a = random({2, 2}, DType::F64), x = random({2, 4}, DType::F64);
  const auto fn = [](double error) {
    return [error](const std::vector<Var>& v) { return sum(v[0]) + crooked(v[1], error); };
  };
  CHECK(gradcheck(fn(0), {a, x}).ok);
  const GradcheckResult r = gradcheck(fn(1e-4), {a, x});
  CHECK_FALSE(r.ok);
  CHECK(r.input == "input 1");
  CHECK(r.element == 5);
  CHECK(r.analytic - r.numeric == doctest::Approx(1e-4).epsilon(0.01));
  CHECK(r.message().find("input 1[5]") != std::string::npos);
  CHECK_FALSE(gradcheck(fn(NAN), {a, x}).ok);
}

TEST_CASE("gradcheck: reads every element of the output") {
  // Each output but one ignores x; a sum of the outputs with signs would cancel.
  const Tensor x = random({3}, DType::F64);
  const auto fn = [](const std::vector<Var>& v) {
    const Var bad = crooked(concat({v[0], v[0]}, 0), 0.5);  // the sixth output depends on x[2]
    return concat({bad, -bad}, 0);
  };
  const GradcheckResult r = gradcheck(fn, {x});
  CHECK_FALSE(r.ok);
  CHECK(r.element == 2);
  GradcheckOptions projected;
  projected.projections = 3;
  CHECK_FALSE(gradcheck(fn, {x}, {}, projected).ok);
  CHECK(gradcheck([](const std::vector<Var>& v) { return exp(v[0]); }, {x}, {}, projected).ok);
}

TEST_CASE("gradcheck: checks parameters and leaves their values alone") {
  Parameter w(random({3, 2}, DType::F64)), unused(random({2}, DType::F64));
  w.name = "layer.weight";
  const Tensor before = w.storage().clone(), x = random({4, 2}, DType::F64);
  CHECK(gradcheck([&](const std::vector<Var>& v) { return linear(v[0], w, nullptr, {}); }, {x},
                  {&w, &unused})
            .ok);
  CHECK(same_bits(w.storage(), before));
  CHECK_FALSE(w.has_grad());
  const GradcheckResult r =
      gradcheck([&](const std::vector<Var>&) { return crooked(Var(w), 1); }, {}, {&w});
  CHECK_FALSE(r.ok);
  CHECK(r.input == "parameter layer.weight");
}

TEST_CASE("gradcheck: refuses what it cannot check") {
  const auto same = [](const std::vector<Var>& v) { return v[0]; };
  CHECK(error_of([&] {
          gradcheck(same, {random({2}, DType::F32)});
        }).find("gradcheck: input 0 is f32[2] on cpu, expected f64") == 0);
  CHECK(error_of([&] { gradcheck(same, {}); }).find("gradcheck: got no inputs") == 0);
  CHECK_FALSE(
      gradcheck([](const std::vector<Var>& v) { return v[0].detach(); }, {random({2}, DType::F64)})
          .ok);
}
