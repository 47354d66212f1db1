// Updates on a GPU: the CPU's bits, for weights, moments and stochastic storage.
#include <memory>

#include "optim/adam.h"
#include "optim/kernels.h"
#include "quant/qtensor.h"
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

// Decodes, updates and encodes one parameter after the other.
class ChainAdamW : public AdamW {
 public:
  using AdamW::AdamW;

 protected:
  bool updates_stored() const override { return false; }
};

// Tails of groups and of vectors, rows that begin anywhere, vectors, states that stay in f32, and
// a row that no shared memory holds.
const std::vector<Shape> kShapes{{96, 160}, {47, 1600}, {40, 301}, {5000},    {33},
                                 {70, 512}, {4, 4104},  {3, 2049}, {2, 60000}};

using Named = std::vector<std::pair<std::string, Tensor>>;

// Weights, states and the last norm after some updates; in one of them a parameter has no gradient,
// another one is skipped. Storage I8: codes with a scale a row.
template <class Optimizer>
Named train(Device device, const char* m, const char* v, DType storage, bool extreme) {
  std::vector<std::unique_ptr<Parameter>> own;
  std::vector<Parameter*> all;
  for (const Shape& shape : kShapes) {
    const auto i = static_cast<std::uint32_t>(own.size());
    own.push_back(std::make_unique<Parameter>(
        uniform({shape.numel()}, DType::F32, -1, 1, 50 + i).view(shape).to(device)));
    own.back()->name = fmt::format("p{}", i);
    if (storage == DType::I8)
      set_weight_storage_int8(*own.back());
    else if (shape.rank() > 1)
      set_weight_storage(*own.back(), storage);
    all.push_back(own.back().get());
  }
  AdamOptions options{.seed = 77};
  options.m.codec = find_codec(m), options.v.codec = find_codec(v);
  const std::vector<Parameter*> first(all.begin(), all.begin() + 3),
      rest(all.begin() + 3, all.end());
  Optimizer adam({{first, 1, 0.1}, {rest, 0.5, 0}}, options);
  StepState state(device);
  double norm = 0;
  for (std::uint32_t step = 0; step < 4; ++step) {
    state.begin(step, 1e-2);
    for (std::uint32_t i = 0; i < all.size(); ++i) {
      Tensor g = uniform({all[i]->numel()}, DType::F32, -1e-2, 1e-2, 100 * step + i);
      if (extreme) g.slice(0, 0, 33).fill(0);
      if (extreme && g.numel() > 3000) {  // groups of tiny, huge and not finite numbers
        const auto scale = [&](std::int64_t begin, std::int64_t end, double by) {
          Tensor part = g.slice(0, begin, end);
          part.copy_from(ops::affine(part, by));
        };
        scale(256, 800, 1e-12), scale(1000, 1100, 1e-19), scale(1500, 1900, 0);
        g.slice(0, 2000, 2001).fill(1e18);
        g.slice(0, 2200, 2201).fill(3e38);
        g.slice(0, 2500, 2501).fill(INFINITY);
        g.slice(0, 2900, 2901).fill(NAN);
      }
      all[i]->grad_buffer().copy_from(g.view(all[i]->shape()).to(device));
      all[i]->set_has_grad(i != 2 || step != 1);
    }
    if (!extreme) queue_clip_gradients(all, 0.5, state);
    if (step == 2) state.mark_bad();
    adam.step(state);
    norm = state.read().norm;
    state.clear_bad();
  }
  Named end = adam.state_tensors();
  for (Parameter* p : all) {
    if (!p->is_quantized()) {
      end.emplace_back(p->name, p->storage());
      continue;
    }
    end.emplace_back(p->name + "/codes", p->quantized().payload());
    end.emplace_back(p->name + "/scales", p->quantized().scales());
  }
  end.emplace_back("norm", Tensor::full({1}, norm, DType::F64));
  return end;
}

}  // namespace

GPU_TEST("cuda optim: an update of stored moments gives the bits of the chain and of the CPU") {
  constexpr std::pair<const char*, const char*> kMoments[] = {
      {"f32", "f32"},
      {"bf16", "f32"},
      {"dyn8:group256", "dynu8:group256"},
      {"dyn8:group256", "dynu8:group256:sr:recip"},
      {"dyn8:group256:sr", "dynu8:group64:sr"},
      {"int8:group128", "dynu8:group512"},
      {"int4:group128:packed:sr", "dynu8:group256"},
      {"dyn4:group128:packed", "lin4u:group128:packed"},
      {"e4m3:group128:e8m0", "e5m2:group256:sr"},
      {"int8:group256:recip:sr", "uint8:group32:bf16"},
      {"e2m1:group64:packed:pow2", "uint4:group128:packed:floor1e-08"},
      {"dyn8:row", "sim(dynu8:group256)"}};
  for (const auto& [m, v] : kMoments)
    for (const DType storage : {DType::F32, DType::BF16, DType::I8})
      for (const bool extreme : {false, true}) {
        if ((extreme && storage == DType::BF16) || !in_sample()) continue;
        CAPTURE(std::string(m));
        CAPTURE(std::string(v));
        CAPTURE(storage);
        CAPTURE(extreme);
        const Named cpu = train<AdamW>(kCpu, m, v, storage, extreme),
                    gpu = train<AdamW>(kGpu, m, v, storage, extreme),
                    chain = train<ChainAdamW>(kGpu, m, v, storage, extreme);
        for (std::size_t i = 0; i < cpu.size(); ++i) {
          CAPTURE(cpu[i].first);
          const DType dtype = cpu[i].second.dtype();
          const bool floats = dtype == DType::F32 || dtype == DType::BF16;
          for (const Tensor& other : {gpu[i].second, chain[i].second})
            if (floats && extreme)
              check_bits_or_nan(cpu[i].second, other);
            else
              check_bits(cpu[i].second, other, cpu[i].first);
        }
      }
}

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
    Tensor total = f64(0);
    constexpr std::int64_t kPiece = 16384;  // of sums
    for (const double limit : {0.0, 1.5})
      for (const bool finite : {true, false}) {
        std::vector<Tensor> gradients;
        for (const std::int64_t n :
             {std::int64_t{1}, std::int64_t{0}, std::int64_t{33}, kPiece, kPiece + 1, 70 * kPiece})
          for (const DType dtype : {DType::F32, DType::BF16})
            gradients.push_back(uniform({n}, DType::F32, -0.1, 0.1, 8).to(dtype));
        if (!finite) gradients[5].slice(0, 32, 33).fill(limit > 0 ? INFINITY : NAN);
        for (Tensor& g : gradients) g = g.to(device);
        Tensor clips = Tensor::zeros({std::ssize(gradients)}, DType::F32, device);
        NIBBLE_DISPATCH(device, clip_each(state.scalars(), total, clips, gradients, limit));
        note(state);
        out.push_back(total.item());
        for (const float clip : clips.to_vector()) out.push_back(clip);
        state.clear_bad();
        if (!finite) total = f64(0.25);
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
      if (!in_sample()) continue;
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

GPU_TEST("cuda optim: the norm of many gradients has the CPU's bits") {
  for (const std::size_t count :
       {std::size_t{0}, std::size_t{1}, std::size_t{7}, std::size_t{400}}) {
    CAPTURE(count);
    std::vector<Tensor> inputs;
    const std::int64_t sizes[] = {1, 0, 33, 16384, 16385, 100003, 5};
    for (std::size_t i = 0; i < count; ++i)
      inputs.push_back(uniform({sizes[i % 7] + 1}, i % 3 == 2 ? DType::BF16 : DType::F32, -1, 1,
                               static_cast<std::uint32_t>(i)));
    inputs.push_back(Tensor::full({1}, 0.1, DType::F64));
    in_lockstep(
        inputs,
        [&](const std::vector<Tensor>& in) {
          Tensor y = in.back().clone();
          std::vector<Tensor> x;
          for (std::size_t i = 0; i < count; ++i) x.push_back(in[i].slice(0, 1, in[i].numel()));
          NIBBLE_DISPATCH(y.device(), sum_squares_of_all(y, x));
          return std::vector{y};
        },
        [](const Tensor& cpu, const Tensor& gpu) { check_bits(cpu, gpu); });
  }
}
