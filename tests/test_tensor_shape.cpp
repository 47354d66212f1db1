#include "tests/tensor_testing.h"

using namespace nibble;
using namespace nibble::testing;

namespace {
using Doubles = std::vector<double>;
}

TEST_CASE("tensor: copy converts between dtypes, saturating integers") {
  const float nan = std::nanf("");
  const Tensor x = Tensor::from(std::vector<float>{1.9f, -1.9f, 300, -300, nan, 3e9f}, {6});
  CHECK(x.to(DType::I32).to_vector<std::int32_t>() ==
        std::vector<std::int32_t>{1, -1, 300, -300, 0, 2147483647});
  CHECK(x.to(DType::U8).to_vector<double>() == Doubles{1, 0, 255, 0, 0, 255});
  CHECK(x.to(DType::I8).to_vector<double>() == Doubles{1, -1, 127, -128, 0, 127});
  check_close(x.to(DType::E4M3), {1.875, -1.875, 288, -288, nan, 448}, 0);
  check_close(x.to(DType::E5M2), {2, -2, 320, -320, nan, 57344}, 0);
  check_close(Tensor::full({1}, 1 + 1.0 / 256).to(DType::BF16), {1}, 0);
  CHECK(error_of([] { Tensor::zeros({2}, DType::U4x2).to(DType::F32); }) ==
        "copy: packed codes can only be copied between contiguous u4x2 tensors: "
        "got u4x2[2] on cpu into f32[2] on cpu");
  CHECK(Tensor::full({2, 2}, 7, DType::U4x2).clone().raw()[1] == std::byte{0x77});
}

TEST_CASE("tensor: copy follows any strides on both sides") {
  for (const DType d : {DType::F64, DType::F32, DType::BF16, DType::U8}) {
    for (const auto& [rows, cols] : {std::pair{33, 65}, std::pair{1, 50}, std::pair{130, 31}}) {
      const Tensor x = random({3, rows, cols}, DType::F32, 0, 255).to(d);
      const Doubles v = x.to_vector<double>();
      const auto at = [&, c = cols, r = rows](int i, int j, int k) {
        return v[static_cast<std::size_t>((i * r + j) * c + k)];
      };
      const Doubles t = x.permute({2, 0, 1}).to_vector<double>();
      Tensor wide = Tensor::zeros({cols, 3, rows, 2}, d);
      Tensor thin = wide.slice(3, 1, 2).squeeze(3);
      thin.copy_from(x.permute({2, 0, 1}));
      const Doubles w = wide.to_vector<double>();
      std::size_t n = 0, wrong = 0;
      for (int k = 0; k < cols; ++k)
        for (int i = 0; i < 3; ++i)
          for (int j = 0; j < rows; ++j, ++n)
            wrong += t[n] != at(i, j, k) || w[2 * n] != 0 || w[2 * n + 1] != t[n];
      CHECK(wrong == 0);
      const Tensor big = Tensor::empty({3, rows, cols}, d);
      Tensor back = big.permute({1, 2, 0});
      back.copy_from(x.permute({1, 2, 0}));
      CHECK(same_bits(big, x));
    }
  }
  Tensor row = Tensor::zeros({1, 4});
  Tensor wide = row.expand({3, 4});
  CHECK(error_of([&] {
          wide.copy_from(Tensor::zeros({3, 4}));
        }) == "copy: cannot write into an expanded view: f32[3, 4] on cpu with strides [0, 1]");
  CHECK(row.expand({3, 4}).clone().shape() == Shape{3, 4});
}

TEST_CASE("tensor: fill reaches only the view") {
  Tensor x = Tensor::zeros({5, 6});
  Tensor column = x.slice(1, 2, 4).t();
  column.fill(3);
  for (std::size_t i = 0; i < 30; ++i)
    CHECK(x.to_vector()[i] == (i % 6 == 2 || i % 6 == 3 ? 3 : 0));
  x.t().fill(1);
  CHECK(ops::sum(x).item() == 30);
}

TEST_CASE("tensor: kernels stay inside their output") {
  constexpr std::int64_t kRow = 3001;
  for (const DType d : kFloats) {
    const Tensor a = random({kRow}, d), b = random({kRow}, d, 0.1, 1, 2);
    const auto check = [&](const char* name, auto kernel) {
      Tensor buffer = Tensor::full({3, kRow}, 42, d);
      Tensor y = buffer.select(0, 1);
      kernel(y);
      const Doubles v = buffer.to_vector<double>();
      std::size_t wrong = 0;
      for (std::size_t i = 0; i < v.size(); ++i) wrong += i / kRow != 1 && v[i] != 42;
      CHECK_MESSAGE(wrong == 0, name, " wrote outside its output");
      CHECK_MESSAGE(v[kRow] != 42, name, " did not write its first element");
      CHECK_MESSAGE(v[2 * kRow - 1] != 42, name, " did not write its last element");
    };
    const RngKey key{1, 2};
    check("fill", [&](Tensor& y) { cpu::fill(y, 1); });
    check("copy", [&](Tensor& y) { cpu::copy(y, a); });
    check("add", [&](Tensor& y) { cpu::add(y, a, b); });
    check("where", [&](Tensor& y) { cpu::where(y, Tensor::full({kRow}, 1, DType::U8), a, b); });
    check("affine", [&](Tensor& y) { cpu::affine(y, a, 2, 1); });
    check("axpy", [&](Tensor& y) { cpu::axpy(y, b, 1); });
    check("gelu", [&](Tensor& y) { cpu::gelu_tanh(y, a); });
    check("gelu_backward", [&](Tensor& y) { cpu::gelu_erf_backward(y, b, a); });
    check("dropout", [&](Tensor& y) { cpu::dropout(y, a, 0.5, key); });
    check("softmax", [&](Tensor& y) { cpu::softmax(y, a); });
    check("log_softmax", [&](Tensor& y) { cpu::log_softmax(y, a); });
    check("cumsum", [&](Tensor& y) { cpu::cumsum(y, a, 1, kRow, 1); });
    check("sum", [&](Tensor& y) { cpu::sum(y, ops::stack({a, b}, 0), 1, 2, kRow); });
    check("column_sum", [&](Tensor& y) { cpu::column_sum(y, ops::stack({a, b}, 0), false); });
    if (d == DType::F32) {
      check("random_uniform", [&](Tensor& y) { cpu::random_uniform(y, 0, 1, key); });
      check("random_normal", [&](Tensor& y) { cpu::random_normal(y, 0, 1, key); });
    }
  }
}

TEST_CASE("tensor: concat, stack and split") {
  const Tensor a = Tensor::arange(6).view({2, 3}), b = Tensor::arange(4).view({2, 2});
  check_close(ops::concat({a, b}, 1), {0, 1, 2, 0, 1, 3, 4, 5, 2, 3}, 0);
  check_close(ops::concat({a.t(), b}, -2).slice(0, 2, 4), {2, 5, 0, 1}, 0);
  check_close(ops::stack({a, a}, 1).select(1, 1), {0, 1, 2, 3, 4, 5}, 0);
  CHECK(ops::stack({a, a}, -1).shape() == Shape{2, 3, 2});
  const std::vector<Tensor> parts = ops::split(a, 3, 1);
  CHECK(parts.size() == 3);
  CHECK(parts[2].same_storage(a));
  CHECK(parts[2].to_vector() == std::vector<float>{2, 5});
  CHECK(ops::reshape(a.t(), {6}).to_vector() == std::vector<float>{0, 3, 1, 4, 2, 5});
  CHECK(ops::contiguous(a).same_storage(a));
  CHECK(error_of([&] {
          ops::concat({a, b}, 0);
        }) == "concat: shapes differ outside dimension 0: got [2, 3] and [2, 2]");
  CHECK(error_of([&] { ops::concat({}, 0); }) == "concat: got no tensors, expected at least one");
  CHECK(error_of([&] { ops::split(a, 2, 1); }) ==
        "split: cannot cut dimension 1 of f32[2, 3] on cpu into 2 equal parts");
}

TEST_CASE("tensor: index_select and index_add are transposes") {
  const Tensor index = Tensor::from(std::vector<std::int32_t>{3, 0, 3, 3, 1, 0}, {2, 3});
  for (const DType d : kFloats) {
    const Tensor table = random({5, 67}, d);
    const Tensor rows = ops::index_select(table, index);
    CHECK(rows.shape() == Shape{2, 3, 67});
    check_close(rows.select(0, 0).select(0, 2), table.select(0, 3).to_vector<double>(), 0);
    const Tensor x = random({2, 3, 67}, d, -3, 3, 2);
    for (const DType wide : kFloats) {
      if (bytes_of(d, 1) > bytes_of(wide, 1)) continue;
      Tensor sum = Tensor::full({5, 67}, 0.5, wide);
      ops::index_add(sum, index, x);
      const Doubles v = x.to_vector<double>();
      Doubles expected(5 * 67, 0.5);
      const std::vector<std::int32_t> to = index.to_vector<std::int32_t>();
      for (std::size_t i = 0; i < v.size(); ++i)
        expected[static_cast<std::size_t>(to[i / 67]) * 67 + i % 67] += v[i];
      check_close(sum, expected, tolerance(wide), 1);
    }
  }
  Tensor table = Tensor::zeros({5, 2});
  const Tensor bad = Tensor::from(std::vector<std::int32_t>{1, 5}, {2});
  CHECK(error_of([&] { ops::index_select(table, bad); }) ==
        "index_select: index 1 is out of range: got 5, expected 0 to 4");
  CHECK(error_of([&] {
          ops::index_add(table, bad, Tensor::full({2, 2}, 1));
        }) == "index_add: index 1 is out of range: got 5, expected 0 to 4");
  CHECK(ops::sum(table).item() == 0);
  CHECK(ops::index_select(table, Tensor::zeros({0, 3}, DType::I32)).shape() == Shape{0, 3, 2});
}

TEST_CASE("tensor: index_add in bf16 rounds once a row") {
  Tensor table = Tensor::full({1, 1}, 256, DType::BF16);
  ops::index_add(table, Tensor::zeros({8}, DType::I32), Tensor::full({8, 1}, 0.5, DType::BF16));
  CHECK(table.item() == 260);
}

TEST_CASE("tensor: take_along_last and its transpose") {
  const Tensor index = Tensor::from(std::vector<std::int32_t>{2, 0}, {2});
  for (const DType d : kFloats) {
    const Tensor x = Tensor::arange(6).view({2, 3}).to(d);
    check_close(ops::take_along_last(x, index), {2, 3}, 0);
    Tensor dx = Tensor::zeros({2, 3}, d);
    cpu::take_along_last_backward(dx, Tensor::from(std::vector<float>{5, 7}, {2}).to(d), index);
    check_close(dx, {0, 0, 5, 7, 0, 0}, 0);
    Tensor zeroed = Tensor::arange(9).view({3, 3}).to(d);
    cpu::zero_along_last(zeroed, Tensor::from(std::vector<std::int32_t>{2, -1, 0}, {3}));
    check_close(zeroed, {0, 1, 0, 3, 4, 5, 0, 7, 8}, 0);
  }
  CHECK(error_of([&] {
          ops::take_along_last(Tensor::zeros({3, 3}), index);
        }) == "take_along_last: got [3, 3] for index [2], expected [2, 3]");
}

TEST_CASE("tensor: add_bias and column_sum_into") {
  for (const DType d : kFloats) {
    Tensor y = random({3, 700, 9}, d);
    const Tensor bias = random({9}, d, -3, 3, 2);
    Doubles expected = y.to_vector<double>();
    const Doubles b = bias.to_vector<double>();
    for (std::size_t i = 0; i < expected.size(); ++i) expected[i] += b[i % 9];
    ops::add_bias(y, bias);
    check_close(y, expected, tolerance(d));
    for (const DType wide : kFloats) {
      if (bytes_of(d, 1) > bytes_of(wide, 1)) continue;
      const Doubles v = y.to_vector<double>();
      for (const bool accumulate : {false, true}) {
        Doubles total(9, accumulate ? 10 : 0);
        for (std::size_t i = 0; i < v.size(); ++i) total[i % 9] += v[i];
        Tensor db = Tensor::full({9}, 10, wide);
        ops::column_sum_into(db, y, accumulate);
        check_close(db, total, tolerance(wide), 100);
      }
    }
  }
}
