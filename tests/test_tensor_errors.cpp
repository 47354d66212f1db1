// What ops say about bad arguments, and that Meta tensors need shapes only.
#include "tests/tensor_testing.h"

using namespace nibble;
using namespace nibble::testing;

TEST_CASE("tensor: ops name what is wrong with their arguments") {
  const Tensor f = Tensor::zeros({2, 3}), h = Tensor::zeros({2, 3}, DType::BF16);
  const Tensor i = Tensor::zeros({2, 3}, DType::I32), m = Tensor::zeros({2, 3}, DType::F32, kMeta);
  Tensor y = Tensor::zeros({2, 3}), t = Tensor::zeros({3, 2}).t();
  const auto says = [](auto call, const char* message) { CHECK(error_of(call) == message); };
  says([&] { ops::add(f, h); },
       "add: dtypes differ: got f32[2, 3] on cpu and bf16[2, 3] on cpu; convert one with to()");
  says([&] { ops::mul(f, m); }, "mul: devices differ: got f32[2, 3] on cpu and f32[2, 3] on meta");
  says(
      [&] {
        ops::sub(f, Tensor::zeros({2, 2}));
      },
      "sub: shapes do not broadcast: got [2, 3] and [2, 2]");
  says([&] { ops::gelu(i); }, "gelu: got i32[2, 3] on cpu, expected f64, f32 or bf16");
  says([&] { ops::where(f, f, f); }, "where: got mask f32[2, 3] on cpu, expected dtype u8");
  says([&] { ops::dropout(f, 1.5, RngKey{}); }, "dropout: got p = 1.5, expected 0 to 1");
  says([&] { ops::clamp(f, 1, 0); }, "clamp: got bounds 1 and 0, expected low <= high");
  says([&] { ops::axpy(y, Tensor::zeros({3, 2})); }, "axpy: shapes differ: got [2, 3] and [3, 2]");
  says([&] { ops::axpy(t, f); },
       "axpy: writes in place and needs a contiguous tensor: "
       "got f32[2, 3] on cpu with strides [1, 2]");
  says([&] { ops::sum(f, {2}); }, "sum: dimension 2 is out of range for f32[2, 3] on cpu");
  says([&] { ops::sum(f, {1, -1}); }, "sum: dimension -1 is named twice for f32[2, 3] on cpu");
  says([&] { ops::max(Tensor::zeros({2, 0})); }, "max: no elements to reduce: got shape [2, 0]");
  says([&] { ops::min(i); }, "min: got i32[2, 3] on cpu, expected f64, f32 or bf16");
  says([&] { ops::softmax(Tensor::zeros({})); },
       "softmax: got a scalar, expected at least one dimension");
  says(
      [&] {
        ops::silu_backward(f, Tensor::zeros({2, 2}));
      },
      "silu_backward: shapes differ: got [2, 3] and [2, 2]");
  says([&] { ops::index_select(f, f); },
       "index_select: got index f32[2, 3] on cpu, expected dtype i32");
  says([&] { ops::index_select(Tensor::zeros({3}), i); },
       "index_select: got table f32[3] on cpu, expected a matrix");
  says([&] { ops::index_add(y, Tensor::zeros({4}, DType::I32), f); },
       "index_add: got rows [2, 3], expected [4, 3]");
  says([&] { ops::take_along_last(f, i); },
       "take_along_last: got [2, 3] and index [2, 3], expected one dimension less");
  says([&] { ops::add_bias(y, Tensor::zeros({2})); },
       "add_bias: got bias [2] for [2, 3], expected one value a column");
  Tensor db = Tensor::zeros({3}, DType::BF16);
  says([&] { ops::column_sum_into(db, f, true); },
       "column_sum: the source is wider than its destination: "
       "got f32[2, 3] on cpu into bf16[3] on cpu");
  says([&] { m.item(); }, "item: got f32[2, 3] on meta, expected one element");
  CHECK(error_of([&] { m.to_vector(); }).starts_with("tensor: a meta tensor has no data"));
}

TEST_CASE("tensor: ops infer shapes of Meta tensors without data") {
  const auto meta = [](const Shape& shape, DType d = DType::F32) {
    return Tensor::empty(shape, d, kMeta);
  };
  const Tensor x = meta({4, 3, 8}), row = meta({8});
  const Tensor index = meta({5, 2}, DType::I32), table = meta({10, 8});
  const auto is = [](const Tensor& y, const Shape& shape, DType d = DType::F32) {
    CHECK(y.device().is_meta());
    CHECK(y.shape() == shape);
    CHECK(y.dtype() == d);
  };
  is(ops::add(x, row), {4, 3, 8});
  is(ops::less(x, row), {4, 3, 8}, DType::U8);
  is(ops::where(meta({3, 1}, DType::U8), x, row), {4, 3, 8});
  is(ops::gelu(x.transpose(0, 1)), {3, 4, 8});
  is(ops::gelu_backward(x, x, ops::Gelu::Erf), {4, 3, 8});
  is(ops::pow(x, 2), {4, 3, 8});
  is(ops::dropout(x, 0.5, RngKey{}), {4, 3, 8});
  is(ops::mean(x, {0, 2}, true), {1, 3, 1});
  is(ops::min(x, {1}), {4, 8});
  is(ops::argmax(x, 1), {4, 8}, DType::I32);
  is(ops::cumsum(x), {4, 3, 8});
  is(ops::sum_to(x, {3, 1}), {3, 1});
  is(ops::sum_squares(x), {}, DType::F64);
  CHECK(ops::all_finite(x));
  is(ops::softmax(x), {4, 3, 8});
  is(ops::log_softmax_backward(x, x), {4, 3, 8});
  is(ops::concat({x, x}, 1), {4, 6, 8});
  is(ops::stack({x, x}, 0), {2, 4, 3, 8});
  is(ops::split(x, 2, 2)[1], {4, 3, 4});
  is(ops::index_select(table, index), {5, 2, 8});
  is(ops::take_along_last(meta({5, 2, 9}), index), {5, 2});
  is(ops::reshape(x.transpose(0, 1), {12, 8}), {12, 8});
  is(x.to(DType::BF16), {4, 3, 8}, DType::BF16);
  is(Tensor::normal({6}, 0, 1, RngKey{}, DType::F32, kMeta), {6});
  Tensor y = meta({10, 8}), db = meta({8});
  ops::index_add(y, index, meta({5, 2, 8}));
  ops::axpy(y, table, 2);
  ops::add_bias(y, row);
  ops::column_sum_into(db, y, true);
  CHECK(y.version() == 3);
}
