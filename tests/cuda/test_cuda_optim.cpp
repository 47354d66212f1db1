// Updates on a GPU: the CPU's bits, for weights, moments and stochastic storage.
#include "optim/adam.h"
#include "optim/kernels.h"
#include "tests/cuda/lockstep.h"

using namespace nibble;
using namespace nibble::testing;

namespace {

const std::vector<std::int64_t> kSizes{1, 7, 8, 257, (1 << 22) + 3};

Tensor gradient_of(std::int64_t n, DType dtype) {
  Tensor g = uniform({n}, dtype, -1e-2, 1e-2, 4);
  if (n > 200) {  // what an update must survive without a difference
    g.slice(0, 100, 101).fill(NAN);
    g.slice(0, 101, 102).fill(INFINITY);
    g.slice(0, 102, 103).fill(1e-42);
    g.slice(0, 103, 104).fill(0);
  }
  return g;
}

// NaNs agree as NaNs: which of their bits an operation keeps is the machine's choice.
void check_bits_or_nan(const Tensor& cpu, const Tensor& gpu) {
  const Tensor zero = Tensor::zeros({1});
  const Tensor back = gpu.to(kCpu);
  const auto settle = [&](const Tensor& x) { return ops::where(ops::equal(x, x), x, zero); };
  check_bits(settle(cpu), settle(back));
  check_bits(ops::equal(cpu, cpu), ops::equal(back, back));
}

}  // namespace

GPU_TEST("cuda optim: AdamW gives the CPU's bits") {
  for (const DType dtype : {DType::F32, DType::BF16})
    for (const std::int64_t n : kSizes) {
      CAPTURE(n);
      const AdamRule rule{.beta1 = 0.9f, .beta2 = 0.95f, .epsilon = 1e-8f};
      const Tensor corrections = Tensor::from(std::vector{1.5f, 2.5f}, {2});
      in_lockstep(
          {uniform({n}), uniform({n}, DType::F32, -1e-2, 1e-2, 2),
           uniform({n}, DType::F32, 0, 1e-4, 3), gradient_of(n, dtype), corrections},
          [&](const std::vector<Tensor>& x) {
            Tensor w = x[0].clone(), m = x[1].clone(), v = x[2].clone();
            StepState state(w.device());
            state.begin(3, 3e-4);
            state.set_clip(0.7);
            NIBBLE_DISPATCH(w.device(),
                            adam(w, m, v, x[3], rule, GroupRule{0.3, 0.1}, state.scalars(), x[4]));
            return std::vector<Tensor>{w, m, v};
          },
          check_bits_or_nan);
    }
}

GPU_TEST("cuda optim: the scalars of a step are the CPU's") {
  using Values = std::vector<double>;
  const auto run = [](Device device) {
    const auto f64 = [&](double x) { return Tensor::full({1}, x, DType::F64).to(device); };
    Values out;
    const auto note = [&](const StepState& state) {
      const StepScalars s = state.read();
      out.insert(out.end(), {double(s.bad), double(s.step), s.lr, s.clip, s.loss, s.norm});
    };
    StepState state(device);
    for (const double squares :
         {0.0, 1e-300, 0.3, 1.0 / 3, 17.25, 1e300, double(INFINITY), double(NAN)})
      for (const double limit : {0.0, 0.5, 3.0}) {
        state.begin(5, 1e-3);
        NIBBLE_DISPATCH(device, clip_by_norm(state.scalars(), f64(squares), limit));
        note(state);
        state.clear_bad();
      }
    for (const DType dtype : {DType::F32, DType::BF16}) {
      state.begin(6, 1e-3);
      for (const double loss : {2.8125, 3.14159, double(NAN)}) {
        accumulate_loss(state, Tensor::full({1}, loss, dtype).to(device), 3);
        note(state);
      }
      state.clear_bad();
    }
    Tensor updates = f64(6), skipped = f64(1), number = Tensor::zeros({1}, DType::I32, device);
    for (const bool bad : {false, true, false}) {
      if (bad) state.mark_bad();
      NIBBLE_DISPATCH(device, count_update(updates, skipped, number, state.scalars()));
      out.insert(out.end(), {updates.item(), skipped.item(), number.item()});
      state.clear_bad();
    }
    Tensor corrections = Tensor::zeros({2}, DType::F32, device), p1 = f64(1), p2 = f64(1);
    for (int t = 0; t < 2000; ++t)
      NIBBLE_DISPATCH(device, adam_corrections(corrections, p1, p2, 0.9, 0.999));
    for (const float c : corrections.to_vector()) out.push_back(c);
    out.insert(out.end(), {p1.item(), p2.item()});
    return out;
  };
  const Values cpu = run(kCpu), gpu = run(kGpu);
  REQUIRE(cpu.size() == gpu.size());
  for (std::size_t i = 0; i < cpu.size(); ++i) {
    CAPTURE(i);
    CHECK((cpu[i] == gpu[i] || (std::isnan(cpu[i]) && std::isnan(gpu[i]))));
  }
}

GPU_TEST("cuda optim: SGD gives the CPU's bits, with and without momentum") {
  for (const bool momentum : {false, true})
    for (const std::int64_t n : kSizes) {
      CAPTURE(n);
      const SgdRule rule{.momentum = 0.9f, .nesterov = true};
      in_lockstep(
          {uniform({n}), uniform({n}, DType::F32, -1, 1, 2), gradient_of(n, DType::F32)},
          [&](const std::vector<Tensor>& x) {
            Tensor w = x[0].clone(), m = momentum ? x[1].clone() : Tensor();
            StepState state(w.device());
            state.begin(3, 3e-2);
            state.set_clip(0.7);
            NIBBLE_DISPATCH(w.device(),
                            sgd(w, m, x[2], rule, GroupRule{1.3, 0.1}, state.scalars()));
            return std::vector<Tensor>{w, m};
          },
          check_bits_or_nan);
    }
}

GPU_TEST("cuda optim: stochastic bf16 gives the CPU's bits") {
  for (const std::int64_t n : kSizes) {
    Tensor x = uniform({n});
    if (n > 200) {
      x.slice(0, 9, 10).fill(NAN);
      x.slice(0, 10, 11).fill(-INFINITY);
      x.slice(0, 11, 12).fill(3.4e38);
    }
    in_lockstep(
        {x},
        [&](const std::vector<Tensor>& in) {
          Tensor y = Tensor::empty({n}, DType::BF16, in[0].device());
          NIBBLE_DISPATCH(y.device(), stochastic_bf16(y, in[0], RngKey{5, 6}));
          return std::vector<Tensor>{y};
        },
        [](const Tensor& a, const Tensor& b) { check_bits(a, b); });
  }
}

GPU_TEST("cuda optim: ten updates with encoded moments give the CPU's bits") {
  for (const std::string_view storage : {"f32", "bf16", "int8"})
    for (const std::string_view moments :
         {"f32", "dyn8:group256", "int8:group128", "int4:group128"}) {
      CAPTURE(storage);
      CAPTURE(moments);
      std::vector<std::vector<std::pair<std::string, Tensor>>> ends;
      for (const Device device : {kCpu, kGpu}) {
        Parameter p(uniform({96, 160}).to(device));
        p.name = std::string(1, 'w');  // g++ 12 warns falsely about a literal
        if (storage == "bf16") set_weight_storage(p, DType::BF16);
        if (storage == "int8") set_weight_storage_int8(p);
        AdamOptions options;
        options.m.codec = find_codec(moments);
        options.v.codec = find_codec(moments == "dyn8:group256" ? "dynu8:group256" : "f32");
        AdamW adam({{{&p}, 1, 0.1}}, options);
        StepState state(device);
        for (std::uint32_t step = 0; step < 10; ++step) {
          state.begin(step, 1e-2);
          p.grad_buffer().copy_from(uniform({96, 160}, DType::F32, -1, 1, 20 + step).to(device));
          p.set_has_grad(true);
          adam.step(state);
        }
        auto tensors = adam.state_tensors();
        tensors.emplace_back("weight", p.dense());
        ends.push_back(tensors);
      }
      for (std::size_t i = 0; i < ends[0].size(); ++i)
        check_bits(ends[0][i].second, ends[1][i].second, ends[0][i].first);
    }
}
