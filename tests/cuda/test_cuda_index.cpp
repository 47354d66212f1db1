// Rows by index. index_add is bit-equal to the CPU: the same ascending order, f32 sums, one
// rounding.
#include <functional>
#include <utility>

#include "tests/cuda/number_checks.h"

using namespace nibble;
using namespace nibble::testing;

namespace {

constexpr std::pair<DType, DType> kAccumulations[] = {
    {DType::F32, DType::F32}, {DType::F32, DType::BF16}, {DType::BF16, DType::BF16}};

Tensor indices(std::int64_t n, const std::function<std::int64_t(std::int64_t)>& f) {
  std::vector<std::int32_t> v(static_cast<std::size_t>(n));
  for (std::int64_t i = 0; i < n; ++i)
    v[static_cast<std::size_t>(i)] = static_cast<std::int32_t>(f(i));
  return Tensor::from(v, {n});
}
Tensor random_indices(std::int64_t n, std::int64_t rows) {
  return indices(n, [rows](std::int64_t i) {
    return static_cast<std::int64_t>(philox4x32_10(static_cast<std::uint32_t>(i), 0, 0, 0, 3).v[0] %
                                     static_cast<std::uint64_t>(rows));
  });
}

void check_add(const std::string& name, std::int64_t rows, std::int64_t cols, const Tensor& index) {
  for (const auto& [to, from] : kAccumulations)
    in_lockstep(
        {uniform({rows, cols}, to, -1, 1, 2), index,
         uniform({index.numel(), cols}, from, -1, 1, 3)},
        [](const std::vector<Tensor>& in) {
          Tensor table = in[0].clone();
          ops::index_add(table, in[1], in[2]);
          return std::vector<Tensor>{table};
        },
        [&](const Tensor& cpu, const Tensor& gpu) { check_bits(cpu, gpu, name); });
}

// Whether the next synchronisation blames `op` for index `bad` at position 23 of 10.
void check_fault(const char* op, std::int64_t bad, const std::function<void()>& f) {
  std::string text;
  try {
    f();
    cuda::synchronize();
  } catch (const Error& e) {
    text = e.what();
  }
  CAPTURE(text);
  CHECK(text.starts_with(fmt::format("{}: got index {} at position 23, expected 0 to 9", op, bad)));
  cuda::synchronize();  // it was taken
}

}  // namespace

GPU_TEST("cuda index: index_add sums in the CPU's order, whatever repeats") {
  check_add("tokens", 50257, 768, random_indices(4096, 50257));
  check_add("bytes", 256, 768, random_indices(4096, 256));
  check_add("positions", 128, 768, indices(4096, [](std::int64_t i) { return i % 128; }));
  check_add("positions, blocked", 128, 64, indices(4096, [](std::int64_t i) { return i / 32; }));
  check_add("one row gets all", 10, 96, indices(5000, [](std::int64_t) { return 7; }));
  check_add("a skewed vocabulary", 3000, 64, indices(20000, [](std::int64_t i) {
              const std::int64_t u = i * 7919 % 3000;
              return u * u / 3000 * u / 3000;  // cubic: small numbers are frequent
            }));
  check_add("descending", 5000, 2, indices(5000, [](std::int64_t i) { return 4999 - i; }));
  check_add("one row", 1, 33, random_indices(1000, 1));
  check_add("two rows", 2, 33, random_indices(1000, 2));
}

GPU_TEST("cuda index: index_add at sizes around warps, tiles and digits") {
  for (const std::int64_t n : {0, 1, 31, 32, 33, 1023, 1024, 1025, 3000})
    for (const std::int64_t rows : {1, 255, 256, 257})
      for (const std::int64_t cols : {0, 1, 7, 64, 66})
        if (in_sample()) check_add("sizes", rows, cols, random_indices(n, rows));
  check_add("two digits, full", 65536, 3, random_indices(70000, 65536));
  check_add("three digits", 65537, 3, random_indices(70000, 65537));
  check_add("four digits", (1 << 24) + 5, 1, random_indices(70000, (1 << 24) + 5));
  check_add("tiles beyond 1024", 5000, 5, random_indices(300001, 5000));
}

GPU_TEST("cuda index: index_add writes its rows and nothing else, also off alignment") {
  for (const auto& [to, from] : kAccumulations)
    for (const std::int64_t skip : {0, 1, 3})
      in_lockstep(
          {uniform({40 * 6 + 20}, to, -1, 1, 2), random_indices(100, 40),
           uniform({100 * 6 + 20}, from, -1, 1, 3)},
          [=](const std::vector<Tensor>& in) {
            const Tensor whole = in[0].clone();
            Tensor table = whole.slice(0, skip, skip + 240).view({40, 6});
            const Tensor x = in[2].slice(0, skip, skip + 600).view({100, 6});
            ops::index_add(table, in[1], x);
            return std::vector<Tensor>{whole};
          },
          [](const Tensor& cpu, const Tensor& gpu) { check_bits(cpu, gpu); });
}

GPU_TEST("cuda index: index_add gives the same bits every time") {
  const Tensor index = random_indices(32768, 900).to(kGpu);
  const Tensor x = uniform({32768, 96}, DType::BF16).to(kGpu);
  Tensor first;
  for (int run = 0; run < 5; ++run) {
    Tensor table = Tensor::zeros({900, 96}, DType::BF16, kGpu);
    ops::index_add(table, index, x);
    if (run == 0)
      first = table.to(kCpu);
    else
      check_bits(first, table);
  }
}

GPU_TEST("cuda index: index_select copies rows of any width and alignment") {
  for (const DType dtype : {DType::F32, DType::BF16})
    for (const std::int64_t cols : {0, 1, 2, 3, 5, 8, 77, 768, 1026})
      for (const std::int64_t n : {0, 1, 9, 1000})
        in_lockstep(
            {any_floats({500, cols}).to(dtype), random_indices(n, 499)},
            [](const std::vector<Tensor>& in) {
              return std::vector<Tensor>{ops::index_select(in[0], in[1]),
                                         ops::index_select(in[0].slice(0, 1, 500), in[1])};
            },
            [](const Tensor& cpu, const Tensor& gpu) { check_bits(cpu, gpu); });
}

GPU_TEST("cuda index: take_along_last and its backward") {
  for (const DType dtype : {DType::F32, DType::BF16})
    for (const auto& [n, cols] : {std::pair{0, 3}, {1, 1}, {300, 7}, {1000, 1000}})
      in_lockstep(
          {any_floats({n, cols}).to(dtype), random_indices(n, cols), any_floats({n}, 2).to(dtype)},
          [](const std::vector<Tensor>& in) {
            Tensor dx = Tensor::zeros(in[0].shape(), in[0].dtype(), in[0].device());
            NIBBLE_DISPATCH(dx.device(), take_along_last_backward(dx, in[2], in[1]));
            return std::vector<Tensor>{ops::take_along_last(in[0], in[1]), dx};
          },
          [](const Tensor& cpu, const Tensor& gpu) { check_bits(cpu, gpu); });
}

GPU_TEST("cuda index: zero_along_last") {
  for (const DType dtype : {DType::F32, DType::BF16})
    for (const auto& [n, cols] : {std::pair{0, 3}, {1, 1}, {300, 7}, {1000, 1000}})
      in_lockstep(
          {any_floats({n, cols}).to(dtype),
           indices(n, [cols = cols](std::int64_t i) { return i * 7 % (cols + 2) - 1; })},
          [](const std::vector<Tensor>& in) {
            Tensor x = in[0].clone();
            NIBBLE_DISPATCH(x.device(), zero_along_last(x, in[1]));
            return std::vector<Tensor>{x};
          },
          [](const Tensor& cpu, const Tensor& gpu) { check_bits(cpu, gpu); });
}

GPU_TEST("cuda index: an index out of range is an error at the next synchronisation") {
  const Tensor x = uniform({10, 4}), rows = uniform({40, 4});
  const Tensor table = x.to(kGpu), source = rows.to(kGpu);
  for (const std::int64_t bad : {-1, 10, 1 << 30, -(1 << 30)}) {
    const Tensor index =
        indices(40, [bad](std::int64_t i) { return i == 23 ? bad : i % 10; }).to(kGpu);
    Tensor y = table.clone();
    check_fault("index_add", bad, [&] { ops::index_add(y, index, source); });
    check_bits(x, y, "a bad index must leave the table as it was");
    check_fault("index_select", bad, [&] { ops::index_select(table, index); });

    const Tensor wide = uniform({40, 10}).to(kGpu), dy = uniform({40}).to(kGpu);
    Tensor dx = Tensor::zeros({40, 10}, DType::F32, kGpu);
    check_fault("take_along_last", bad, [&] { ops::take_along_last(wide, index); });
    check_fault("take_along_last", bad,
                [&] { NIBBLE_DISPATCH(kGpu, take_along_last_backward(dx, dy, index)); });
  }
}
