// What the tests among guard bytes run beside the table of operations, on any device: ops without a
// gradient, quantizers, and whole training steps. Each gives its results for comparison.
#pragma once

#include <fmt/ranges.h>

#include <string>
#include <utility>
#include <vector>

#include "autograd/context.h"
#include "autograd/tape.h"
#include "models/gpt2.h"
#include "optim/adam.h"
#include "tensor/memory_guard.h"
#include "tests/in_sample.h"
#include "tests/quant_checks.h"
#include "tests/tensor_testing.h"

namespace nibble::testing {

using Results = std::vector<std::pair<std::string, Tensor>>;

inline Results ops_without_gradient(Device device) {
  const auto make = [&](const Shape& shape, std::uint32_t site, DType dtype = DType::F32) {
    return random(shape, dtype, -3, 3, site).to(device);
  };
  const auto ids = [&](std::vector<std::int32_t> values) {
    const auto n = static_cast<std::int64_t>(values.size());
    return Tensor::from(values, {n}).to(device);
  };
  Results out;
  const auto add = [&](const char* name, const Tensor& y) { out.emplace_back(name, y); };
  for (const DType dtype : {DType::F32, DType::BF16}) {
    const Tensor a = make({5, 7}, 1, dtype), b = make({7}, 2, dtype), c = make({7, 3}, 3, dtype);
    add("less", ops::less(a, b));
    add("equal", ops::equal(a, a));
    add("argmax", ops::argmax(a, 0));
    add("sum_squares", ops::sum_squares(a));
    for (const bool accumulate : {false, true}) {
      Tensor sums = make({7}, 4), product = make({5, 3}, 5);
      ops::column_sum_into(sums, a, accumulate);
      ops::matmul_into(product, a, c, accumulate);
      add("column_sum", sums);
      add("matmul", product);
    }
    Tensor biased = a.clone(), axpy = make({5, 7}, 6), table = make({4, 7}, 7);
    ops::add_bias(biased, b);
    ops::axpy(axpy, a, 0.5);
    ops::index_add(table, ids({3, 0, 3, 1, 3}), a);
    add("add_bias", biased);
    add("axpy", axpy);
    add("index_add", table);
    add("index_select", ops::index_select(a, ids({4, 4, 0})));
  }
  return out;
}

inline Results quantizer(const QuantSpec& spec, Device device) {
  Results out;
  for (const DType dtype : {DType::F32, DType::BF16}) {
    const Tensor x = quant_checks::sample().to(dtype).to(device);
    for (const bool transposed : {false, true}) {
      // The splits of the table's specs are of a matrix as it stands.
      if (transposed && (spec.row_splits > 1 || spec.col_splits > 1)) continue;
      const QTensor q = quantize(x, spec, quant_checks::kKey, transposed);
      const std::string name = to_string(spec) + (transposed ? " transposed" : "");
      out.emplace_back(name + ": codes", q.payload());
      out.emplace_back(name + ": scales", q.scales());
      out.emplace_back(name + ": zeros", q.zeros());
      out.emplace_back(name + ": global scale", q.global_scale());
      out.emplace_back(name + ": values", dequantize(q, dtype));
      out.emplace_back(name + ": turned codes", q.t_contiguous().payload());
    }
    out.emplace_back(to_string(spec) + ": round trip", fake_quantize(x, spec, quant_checks::kKey));
  }
  return out;
}

inline Gpt2Config small_model(DType compute) {
  Gpt2Config c;
  c.vocab = 150, c.context = 32, c.layers = 2, c.heads = 2, c.width = 128, c.compute = compute;
  c.token_chunk = 32;  // two chunks
  c.embedding_dropout = c.attention_dropout = c.residual_dropout = 0.1;
  return c;
}

// Two steps of a small GPT-2 with dropout, encoded moments and clipping.
inline Results training(const std::string& recipe, DType compute, Device device) {
  Gpt2 model(small_model(compute), recipes::parse(recipe), 42, device);
  AdamOptions options;
  options.m.codec = find_codec("dyn8:group256");
  options.v.codec = find_codec("dynu8:group256");
  AdamW adam({{parameters(model), 1, 0.1}}, options);
  StepState state(device);
  Tape tape;
  Results out;
  for (std::uint32_t step = 0; step < 2; ++step) {
    state.begin(step, 3e-3);
    const ForwardScope scope({.training = true, .seed = 9, .step = state.step_pointer()});
    const Tensor ids = Tensor::uniform({2, 32}, 0, 150, RngKey{5, step}).to(DType::I32).to(device);
    const Tape::Recording recording(tape);
    const Var loss = model.loss(ids, ids);
    out.emplace_back("loss", loss.tensor());
    tape.backward(loss);
    clip_gradients(parameters(model), 1, state);
    adam.step(state);
  }
  for (Parameter* p : parameters(model)) out.emplace_back(p->name, p->dense());
  return out;
}

// f() -> Results, in the open and among guard bytes of `device`: the same bits (tier: exact), and
// every margin whole.
template <class F>
void check_among_sentinels(Device device, F&& f) {
  const Results expected = f();
  Results got;
  std::string damage;
  {
    const MemoryGuard guard(device);
    got = f();
    damage = fmt::format("{}", fmt::join(guard.damage(), "\n"));
    CHECK(guard.blocks() > 0);
  }
  CHECK_MESSAGE(damage.empty(), damage);
  REQUIRE(got.size() == expected.size());
  for (std::size_t i = 0; i < got.size(); ++i) {
    const Tensor &e = expected[i].second, &g = got[i].second;
    REQUIRE(e.defined() == g.defined());
    if (!e.defined()) continue;
    CHECK_MESSAGE(same_bits(ops::contiguous(e).to(kCpu), ops::contiguous(g).to(kCpu)),
                  expected[i].first);
  }
}

inline void check_everything_among_sentinels(Device device) {
  check_among_sentinels(device, [&] { return ops_without_gradient(device); });
  for (const QuantSpec& spec : quant_checks::specs())
    if (in_sample()) check_among_sentinels(device, [&] { return quantizer(spec, device); });
  for (const char* recipe : {"none", "int8", "w8a8g8"})
    for (const DType compute : {DType::F32, DType::BF16}) {
      if (!in_sample()) continue;
      CAPTURE(recipe);
      CAPTURE(compute);
      check_among_sentinels(device, [&] { return training(recipe, compute, device); });
    }
}

}  // namespace nibble::testing
