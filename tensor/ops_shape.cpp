#include "tensor/op_checks.h"
#include "tensor/ops.h"

namespace nibble::ops {
namespace {

// index.shape() + [C].
Shape rows_shape(const char* op, const Tensor& table, const Tensor& index) {
  check_float(op, table);
  check_index(op, index, table);
  NIBBLE_CHECK(table.rank() == 2, op, "got table {}, expected a matrix", describe(table));
  Shape shape = index.shape();
  shape.push_back(table.size(1));
  return shape;
}

}  // namespace

Tensor contiguous(const Tensor& x) { return x.is_contiguous() ? x : x.clone(); }
Tensor reshape(const Tensor& x, const Shape& shape) { return contiguous(x).view(shape); }

Tensor concat(const std::vector<Tensor>& parts, int dim) {
  NIBBLE_CHECK(!parts.empty(), "concat", "got no tensors, expected at least one");
  const Tensor& head = parts.front();
  NIBBLE_CHECK(dim >= -head.rank() && dim < head.rank(), "concat",
               "dimension {} is out of range for {}", dim, describe(head));
  const int axis = head.shape().index(dim);
  Shape shape = head.shape();
  shape[axis] = 0;
  for (const Tensor& part : parts) {
    check_same_kind("concat", head, part);
    Shape expected = head.shape();
    if (part.rank() == head.rank()) expected[axis] = part.size(axis);
    NIBBLE_CHECK(part.shape() == expected, "concat",
                 "shapes differ outside dimension {}: got {} and {}", dim, head.shape(),
                 part.shape());
    shape[axis] += part.size(axis);
  }
  const Tensor y = Tensor::empty(shape, head.dtype(), head.device());
  std::int64_t at = 0;
  for (const Tensor& part : parts) {
    y.slice(axis, at, at + part.size(axis)).copy_from(part);
    at += part.size(axis);
  }
  return y;
}

Tensor stack(const std::vector<Tensor>& parts, int dim) {
  std::vector<Tensor> raised;
  raised.reserve(parts.size());
  for (const Tensor& part : parts) {
    check_same_shape("stack", parts.front(), part);
    raised.push_back(part.unsqueeze(dim));
  }
  return concat(raised, dim);
}

std::vector<Tensor> split(const Tensor& x, int parts, int dim) {
  const std::int64_t n = x.size(dim);
  NIBBLE_CHECK(parts > 0 && n % parts == 0, "split",
               "cannot cut dimension {} of {} into {} equal parts", dim, describe(x), parts);
  const std::int64_t step = n / parts;
  std::vector<Tensor> out;
  out.reserve(static_cast<std::size_t>(parts));
  for (int i = 0; i < parts; ++i) out.push_back(x.slice(dim, i * step, (i + 1) * step));
  return out;
}

Tensor index_select(const Tensor& table, const Tensor& index) {
  const Shape shape = rows_shape("index_select", table, index);
  const Tensor in = contiguous(table), rows = contiguous(index);
  Tensor y = Tensor::empty(shape, table.dtype(), table.device());
  NIBBLE_DISPATCH(y.device(), index_select(y, in, rows));
  return y;
}

void index_add(Tensor& table, const Tensor& index, const Tensor& x) {
  const Shape shape = rows_shape("index_add", table, index);
  check_accumulates("index_add", table, x);
  check_in_place("index_add", table);
  NIBBLE_CHECK(x.shape() == shape, "index_add", "got rows {}, expected {}", x.shape(), shape);
  const Tensor in = contiguous(x), rows = contiguous(index);
  NIBBLE_DISPATCH(table.device(), index_add(table, rows, in));
  table.bump_version();
}

Tensor take_along_last(const Tensor& x, const Tensor& index) {
  check_float("take_along_last", x);
  check_index("take_along_last", index, x);
  Shape expected = index.shape();
  NIBBLE_CHECK(x.rank() == index.rank() + 1, "take_along_last",
               "got {} and index {}, expected one dimension less", x.shape(), index.shape());
  expected.push_back(x.size(-1));
  NIBBLE_CHECK(x.shape() == expected, "take_along_last", "got {} for index {}, expected {}",
               x.shape(), index.shape(), expected);
  const Tensor in = contiguous(x), at = contiguous(index);
  Tensor y = Tensor::empty(index.shape(), x.dtype(), x.device());
  NIBBLE_DISPATCH(y.device(), take_along_last(y, in, at));
  return y;
}

void add_bias(Tensor& y, const Tensor& bias) {
  check_float("add_bias", y);
  check_same_kind("add_bias", y, bias);
  check_in_place("add_bias", y);
  NIBBLE_CHECK(y.rank() >= 1 && bias.shape() == Shape{y.size(-1)}, "add_bias",
               "got bias {} for {}, expected one value a column", bias.shape(), y.shape());
  const Tensor b = contiguous(bias);
  Tensor rows = y.flatten_rows();
  NIBBLE_DISPATCH(y.device(), add_bias(rows, b));
  y.bump_version();
}

void column_sum_into(Tensor& db, const Tensor& dy, bool accumulate) {
  check_accumulates("column_sum", db, dy);
  check_in_place("column_sum", db);
  NIBBLE_CHECK(dy.rank() >= 1 && db.shape() == Shape{dy.size(-1)}, "column_sum",
               "got destination {} for {}, expected one value a column", db.shape(), dy.shape());
  const Tensor rows = contiguous(dy).flatten_rows();
  NIBBLE_DISPATCH(db.device(), column_sum(db, rows, accumulate));
  db.bump_version();
}

}  // namespace nibble::ops
