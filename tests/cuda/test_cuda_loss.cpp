// Cross-entropy over chunks. Running sums have another order than the CPU's, and for bf16 logits
// another exponential: a few 1e-7 of the sum, 1e-5 of the largest logits' differences. The gradient
// is elementwise: f32 is bit-equal given the same lse, bf16 may round to either side.
#include "tests/cuda/number_checks.h"
#include "tests/tensor_testing.h"

using namespace nibble;
using namespace nibble::testing;

namespace {

constexpr DType kBoth[] = {DType::F32, DType::BF16};

// Every fifth row is ignored.
Tensor make_targets(std::int64_t rows, std::int64_t classes) {
  std::vector<std::int32_t> t(static_cast<std::size_t>(rows));
  for (std::size_t i = 0; i < t.size(); ++i)
    t[i] = i % 5 == 2
               ? -1
               : static_cast<std::int32_t>((i * 7919 + 3) % static_cast<std::size_t>(classes));
  return Tensor::from(t, {rows});
}

struct Case {
  std::int64_t rows, classes, chunk;
};
// Aligned and odd rows, chunks from one column to all of them, and a last one that is shorter.
const Case kCases[] = {{1, 1, 1},        {7, 10, 3},       {33, 101, 101},   {40, 1000, 264},
                       {9, 1024, 1024},  {9, 1025, 1025},  {20, 4099, 2048}, {6, 50257, 50257},
                       {6, 50257, 8192}, {5, 50304, 8192}, {300, 257, 100},  {4, 30000, 1}};

std::vector<Tensor> chunks_of(const Tensor& logits, std::int64_t chunk) {
  std::vector<Tensor> out;
  for (std::int64_t at = 0; at < logits.size(1); at += chunk)
    out.push_back(logits.slice(1, at, std::min(at + chunk, logits.size(1))).clone());
  return out;
}

// {max, sum, target_logit} after all chunks; in[0] targets, then the chunks.
std::vector<Tensor> update(const std::vector<Tensor>& in) {
  ops::CrossEntropyState s = ops::cross_entropy_begin(in[0].numel(), in[1].dtype(), in[0].device());
  std::int64_t begin = 0;
  for (std::size_t k = 1; k < in.size(); ++k) {
    ops::cross_entropy_update(s, in[k], in[0], begin);
    begin += in[k].size(1);
  }
  return {s.max, s.sum, s.target_logit};
}

std::vector<Tensor> with_targets(const Tensor& targets, const std::vector<Tensor>& chunks) {
  std::vector<Tensor> in{targets};
  in.insert(in.end(), chunks.begin(), chunks.end());
  return in;
}

Tensor lse_of(const std::vector<Tensor>& state) { return ops::add(state[0], ops::log(state[1])); }

}  // namespace

GPU_TEST("cuda loss: running maximum, sum and target agree with the CPU's") {
  for (const DType dtype : kBoth)
    for (const Case& c : kCases) {
      if (c.classes / c.chunk > 200 && dtype == DType::F32) continue;  // one such is enough
      const std::int64_t classes = std::min(c.classes, c.chunk * 200);
      const Tensor logits = uniform({c.rows, classes}, dtype, -9, 9);
      int output = 0;
      in_lockstep(with_targets(make_targets(c.rows, classes), chunks_of(logits, c.chunk)), update,
                  [&](const Tensor& cpu, const Tensor& gpu) {
                    const std::string what =
                        fmt::format("{} × {} by {} {}", c.rows, classes, c.chunk, dtype);
                    if (output++ == 1)
                      check_near(cpu, gpu, 4e-6, 0, what);
                    else
                      check_bits(cpu, gpu, what);
                  });
    }
}

GPU_TEST("cuda loss: masked chunks, huge logits and NaN are as the CPU's") {
  for (const DType dtype : kBoth)
    for (const std::int64_t n : {64, 1001, 2048}) {
      std::vector<float> v(static_cast<std::size_t>(6 * 2 * n), 0.25f);
      for (std::int64_t i = 0; i < 2 * n; ++i) {
        const auto at = [&](std::int64_t row) -> float& {
          return v[static_cast<std::size_t>(row * 2 * n + i)];
        };
        if (i < n) at(0) = -INFINITY;  // nothing seen in the first chunk
        at(1) = -INFINITY;             // nor ever
        at(2) = 1e30f;
        if (i < n)
          at(3) = -INFINITY;  // and then far below zero
        else
          at(3) = -1e30f;
        if (i == n + 3) at(4) = NAN;
        if (i == 5) at(5) = INFINITY;
      }
      const Tensor logits = Tensor::from(v, {6, 2 * n}).to(dtype);
      in_lockstep(with_targets(make_targets(6, 2 * n), chunks_of(logits, n)), update,
                  [&](const Tensor& cpu, const Tensor& gpu) {
                    check_near(cpu, gpu, 4e-6, 0, fmt::format("{} {}", n, dtype));
                  });
    }
}

GPU_TEST("cuda loss: the gradient agrees with the CPU's, apart or in place") {
  for (const DType dtype : kBoth)
    for (const Case& c : kCases) {
      const std::int64_t classes = std::min(c.classes, c.chunk * 20);
      const Tensor logits = uniform({c.rows, classes}, dtype, -9, 9);
      const Tensor targets = make_targets(c.rows, classes);
      const Tensor lse = lse_of(update(with_targets(targets, chunks_of(logits, classes))));
      for (const DType scale : {DType::F32, DType::BF16})
        for (const bool in_place : {false, true})
          for (const std::int64_t skip : {0, 1}) {  // off 16 bytes, in a buffer whose rest stays
            if (!in_sample()) continue;
            std::int64_t begin = 0;
            for (const Tensor& chunk : chunks_of(logits, c.chunk)) {
              const std::int64_t n = chunk.numel();
              in_lockstep(
                  {chunk, targets, lse, Tensor::full({1}, 0.3, scale)},
                  [&](const std::vector<Tensor>& in) {
                    Tensor buffer = Tensor::full({n + 9}, 7, dtype, in[0].device());
                    Tensor d = buffer.slice(0, skip, skip + n).view(chunk.shape());
                    if (in_place) d.copy_from(in[0]);
                    ops::cross_entropy_backward(d, in_place ? d : in[0], in[1], in[2], in[3],
                                                begin);
                    return std::vector{buffer};
                  },
                  [&](const Tensor& cpu, const Tensor& gpu) {
                    const std::string what =
                        fmt::format("{} × {} from {} {}", c.rows, classes, begin, dtype);
                    if (dtype == DType::F32)
                      check_numbers(cpu, gpu, what);
                    else
                      check_near(cpu, gpu, 1.0 / 128, 1e-6, what);
                  });
              begin += chunk.size(1);
            }
          }
    }
}

GPU_TEST("cuda loss: bits depend neither on addresses nor on the run") {
  for (const DType dtype : kBoth)
    for (const std::int64_t n : {1000, 4096, 50257}) {
      const std::int64_t rows = 11;
      const Tensor flat = uniform({rows * n + 1}, dtype, -9, 9).to(kGpu);
      const Tensor shifted = flat.slice(0, 1, rows * n + 1).view({rows, n});
      const Tensor aligned = shifted.clone(), targets = make_targets(rows, n).to(kGpu);
      const std::vector<Tensor> a = update({targets, aligned}), b = update({targets, aligned}),
                                s = update({targets, shifted});
      for (std::size_t k = 0; k < a.size(); ++k) {
        check_bits(a[k].to(kCpu), b[k], "again");
        check_bits(a[k].to(kCpu), s[k], "off 16 bytes");
      }
    }
}

GPU_TEST("cuda loss: ignored rows have no gradient, even of infinite logits") {
  const Tensor logits = Tensor::full({3, 40}, INFINITY, DType::BF16, kGpu);
  const Tensor targets = Tensor::full({3}, -1, DType::I32, kGpu);
  const Tensor lse = Tensor::full({3}, INFINITY, DType::F32, kGpu);
  Tensor d = Tensor::full({3, 40}, 5, DType::BF16, kGpu);
  ops::cross_entropy_backward(d, logits, targets, lse, Tensor::full({1}, 1, DType::F32, kGpu), 0);
  check_bits(Tensor::zeros({3, 40}, DType::BF16), d);
}
