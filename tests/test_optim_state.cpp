// Codecs of optimizer states, and weights stored in low precision.
#include <doctest/doctest.h>

#include <cmath>
#include <limits>

#include "gpt2_golden.h"
#include "optim/adam.h"
#include "optim/kernels.h"
#include "quant/qtensor.h"
#include "tensor_testing.h"

namespace nibble {
namespace {

using testing::golden_values;
using testing::same_bits;

struct Row {
  const char* codec;
  bool nonnegative;  // second moments
  double error;      // of a round trip, relative to the largest value near by
};
constexpr Row kCodecs[] = {
    {"f32", false, 0},
    {"bf16", false, 1.0 / 256},
    {"dyn8:group256", false, 1.0 / 64},
    {"dynu8:group256", true, 1.0 / 128},
    {"dynu8:group256:sr:recip", true, 1.0 / 64},
    {"dyn4:group128:packed", false, 1.0 / 4},
    {"dyn4:group128", false, 1.0 / 4},
    {"lin4u:group128:packed", true, 1.0 / 16},
    {"int8:row", false, 1.0 / 254},
    {"int4:group128:packed", false, 1.0 / 14},
    {"int4:group128:packed:sr", false, 1.0 / 7},
    {"uint8:tensor:asym", false, 1.0 / 254},
    {"e4m3:block128:e8m0", false, 1.0 / 8},
    {"sim(int8:row:floor1e-08)", false, 1.0 / 254},
    {"sim(uint8:tensor:floor1e-08)", true, 1.0 / 510},
};

// Odd sizes: tails of groups, and a last column that shares its byte with nothing.
constexpr std::int64_t kRows = 9, kCols = 301;

Tensor moments(bool nonnegative, std::string_view name = "moments") {
  const Tensor x = golden_values(name, {kRows, kCols}, 0x1p-15f);
  return nonnegative ? ops::square(x) : x;
}

// β₂ = 0.95 moves a second moment by 5 % a step. Around 1e-4 of a group's largest the next code is
// 12 % away, and rounding to nearest never goes there.
TEST_CASE("codec: a small second moment decays, rounded stochastically") {
  constexpr int kSteps = 60;
  const auto decayed = [](const char* name) {
    const CodecPtr codec = find_codec(name);
    constexpr std::int64_t kGroups = 64;
    EncodedState state = codec->make(kGroups, 256, kCpu);
    Tensor v = Tensor::full({kGroups, 256}, 1e-4);
    for (std::uint32_t step = 0; step <= kSteps; ++step) {
      if (step > 0) v.copy_from(ops::affine(v, 0.95));
      v.slice(1, 0, 1).fill(1);
      codec->encode(state, v, RngKey{step, 3});
      codec->decode(v, state);
    }
    const Tensor rest = v.slice(1, 1, 256);
    return ops::mean(rest.to(DType::F64), {0, 1}).item() / 1e-4;
  };
  const double expected = std::pow(0.95, kSteps);
  CHECK(decayed("f32") == doctest::Approx(expected).epsilon(1e-4));
  CHECK(decayed("dynu8:group256:sr:recip") == doctest::Approx(expected).epsilon(0.1));
  CHECK(decayed("dynu8:group256") > 0.9);  // why `int8` does not use it
}

TEST_CASE("codec: a state survives a round trip within its format's error") {
  for (const Row& row : kCodecs) {
    CAPTURE(std::string(row.codec));
    const CodecPtr codec = find_codec(row.codec);
    CHECK(find_codec(codec->name())->name() == codec->name());
    EncodedState state = codec->make(kRows, kCols, kCpu);
    const Tensor x = moments(row.nonnegative);
    codec->encode(state, x, RngKey{1, 2});
    Tensor y = Tensor::empty(x.shape());
    codec->decode(y, state);
    const auto a = x.to_vector<double>(), b = y.to_vector<double>();
    double worst = 0;
    for (std::size_t i = 0; i < a.size(); ++i) worst = std::max(worst, std::fabs(a[i] - b[i]));
    CHECK(worst <= row.error + 1e-7);
    if (row.error > 0) CHECK(worst > 0);

    // What is stored is a fixed point: a resumed state decodes to the same bits.
    Tensor again = Tensor::empty(x.shape());
    codec->decode(again, state);
    CHECK(same_bits(y, again));
  }
}

TEST_CASE("codec: a fresh state and an encoded zero decode to zeros") {
  for (const Row& row : kCodecs) {
    CAPTURE(std::string(row.codec));
    const CodecPtr codec = find_codec(row.codec);
    EncodedState state = codec->make(kRows, kCols, kCpu);
    Tensor y = Tensor::full({kRows, kCols}, 3);
    codec->decode(y, state);
    for (const double v : y.to_vector<double>()) REQUIRE(v == 0);
    // Also where the format has no code for zero (lin4u): the scale must be zero then.
    codec->encode(state, moments(row.nonnegative), RngKey{1, 2});
    codec->encode(state, Tensor::zeros({kRows, kCols}), RngKey{1, 2});
    codec->decode(y, state);
    for (const double v : y.to_vector<double>()) REQUIRE(v == 0);
  }
}

TEST_CASE("codec: a state takes the bytes that its format promises") {
  const auto bytes = [](const char* codec) {
    return find_codec(codec)->make(kRows, kCols, kCpu).bytes();
  };
  constexpr std::int64_t n = kRows * kCols, groups256 = kRows * 2, groups128 = kRows * 3;
  CHECK(bytes("f32") == 4 * n);
  CHECK(bytes("bf16") == 2 * n);
  CHECK(bytes("dyn8:group256") == n + 4 * groups256);
  CHECK(bytes("dyn4:group128:packed") == kRows * (kCols + 1) / 2 + 4 * groups128);
  CHECK(bytes("lin4u:group128:packed") == kRows * (kCols + 1) / 2 + 4 * groups128);
  CHECK(bytes("int8:row") == n + 4 * kRows);
  CHECK(bytes("int8:row:asym") == n + 8 * kRows);
  CHECK(bytes("sim(int8:row)") == 4 * n);  // the study's form saves nothing
}

TEST_CASE("codec: names, registration and errors") {
  using doctest::Contains;
  CHECK(find_codec("")->name() == "f32");
  CHECK(find_codec("sim(int8:row)")->name() == "sim(" + to_string(parse_spec("int8:row")) + ")");
  CHECK_THROWS_WITH(find_codec("dym8:group256"), Contains("codec: unknown: got 'dym8:group256'"));
  CHECK_THROWS_AS(find_codec("sim(int9)"), Error);
  CHECK_THROWS_AS(dense_codec(DType::I8), Error);

  // A user's: the sign and a shared magnitude.
  struct Half : StateCodec {
    std::string name() const override { return "test_half"; }
    EncodedState make(std::int64_t rows, std::int64_t cols, Device device) const override {
      return {{{"half", Tensor::zeros({rows, cols}, DType::F32, device)}}};
    }
    void decode(Tensor& x, const EncodedState& s) const override {
      x.copy_from(ops::affine(s["half"], 2, 0));
    }
    void encode(EncodedState& s, const Tensor& x, const RngKey&) const override {
      s["half"].copy_from(ops::affine(x, 0.5, 0));
    }
  };
  register_codec(std::make_shared<Half>());
  CHECK(find_codec("test_half")->name() == "test_half");
  CHECK_THROWS_WITH(find_codec("test_half")->make(1, 1, kCpu)["whole"],
                    Contains("no tensor 'whole'"));
}

TEST_CASE("optim: small and refused parameters keep f32 states") {
  Parameter big(Tensor::zeros({16, 256})), small(Tensor::zeros({16, 255})),
      refused(Tensor::zeros({64, 64}));
  big.name = "big", small.name = "small", refused.name = "refused";
  AdamOptions options;
  options.m.codec = find_codec("dyn8:group256");
  options.m.eligible = [](const Parameter& p) { return p.name != "refused"; };
  options.v.codec = find_codec("dynu8:group256");
  options.v.min_elements = 0;
  AdamW adam({{{&big, &small, &refused}}}, options);
  CHECK(adam.codec_name(big, 0) == find_codec("dyn8:group256")->name());
  CHECK(adam.codec_name(small, 0) == "f32");
  CHECK(adam.codec_name(refused, 0) == "f32");
  CHECK(adam.codec_name(small, 1) == find_codec("dynu8:group256")->name());
  const std::int64_t m = 4096 + 4 * 16 + 4 * 4080 + 4 * 4096,
                     v = (4096 + 4 * 16) + (4080 + 4 * 16) + (4096 + 4 * 64);
  CHECK(adam.state_bytes() == m + v);
  Parameter stranger(Tensor::zeros({1}));
  stranger.name = "stranger";
  CHECK_THROWS_AS(adam.codec_name(stranger, 0), Error);
}

TEST_CASE("optim: state_tensors names every state and counter, and they are the live ones") {
  Parameter w(golden_values("w", {16, 256}, 0x1p-17f)), b(Tensor::zeros({16}));
  w.name = "fc.weight", b.name = "fc.bias";
  const auto make = [&] {
    AdamOptions options;
    options.m.codec = find_codec("dyn4:group128:packed");
    options.v.codec = find_codec("uint8:row:asym");
    return std::make_unique<AdamW>(std::vector<ParameterGroup>{{{&w}, 1, 0.1}, {{&b}, 1, 0}},
                                   options);
  };
  const auto adam = make();
  std::vector<std::string> names;
  for (const auto& [name, tensor] : adam->state_tensors()) names.push_back(name);
  const std::vector<std::string> expected{
      "optimizer/beta1_power", "optimizer/beta2_power", "optimizer/skipped", "optimizer/updates",
      "fc.weight/m.codes",     "fc.weight/m.scales",    "fc.weight/v.codes", "fc.weight/v.scales",
      "fc.weight/v.zeros",     "fc.bias/m.value",       "fc.bias/v.value"};
  CHECK(names == expected);
  std::vector<std::string> states;
  for (const Optimizer::State& s : adam->states())
    states.push_back(fmt::format("{} {} [{}, {}]", s.name, s.codec->name(), s.rows, s.cols));
  CHECK(states == std::vector<std::string>{"fc.weight/m dyn4:group128:packed [16, 256]",
                                           "fc.weight/v uint8:row:asym [16, 256]",
                                           "fc.bias/m f32 [1, 16]", "fc.bias/v f32 [1, 16]"});

  // Overwriting them restores the optimizer: both go on with the same bits.
  const auto step = [&](Optimizer& o, int t) {
    w.grad_buffer().copy_from(golden_values(fmt::format("g{}", t), {16, 256}, 0x1p-16f));
    b.grad_buffer().copy_from(golden_values(fmt::format("h{}", t), {16}, 0x1p-16f));
    w.set_has_grad(true), b.set_has_grad(true);
    StepState state;
    state.begin(static_cast<std::uint32_t>(t), 1e-2);
    o.step(state);
  };
  for (int t = 0; t < 3; ++t) step(*adam, t);
  const Tensor w3 = w.storage().clone(), b3 = b.storage().clone();
  const auto other = make();
  const auto from = adam->state_tensors();
  auto to = other->state_tensors();
  for (std::size_t i = 0; i < to.size(); ++i)
    std::memcpy(to[i].second.raw(), from[i].second.raw(),
                static_cast<std::size_t>(from[i].second.bytes()));
  CHECK(other->updates() == 3);
  step(*adam, 3);
  const Tensor w4 = w.storage().clone(), b4 = b.storage().clone();
  w.storage().copy_from(w3), b.storage().copy_from(b3);
  step(*other, 3);
  CHECK(same_bits(w.storage(), w4));
  CHECK(same_bits(b.storage(), b4));
}

// Decodes, updates and encodes one parameter after the other.
class ChainAdamW : public AdamW {
 public:
  using AdamW::AdamW;

 protected:
  bool updates_stored() const override { return false; }
};

TEST_CASE("optim: parameters that are updated as they are stored end with the chain's bits") {
  struct Words {
    const char *m, *v;
    std::size_t apart;  // of four
  };
  for (const Words& c :
       {Words{"f32", "f32", 0}, Words{"dyn8:group256", "dynu8:group256", 0},
        Words{"int4:group128:packed:sr", "bf16", 0}, Words{"dyn8:group256", "uint8:row:asym", 3}}) {
    CAPTURE(std::string(c.m));
    std::vector<std::vector<std::pair<std::string, Tensor>>> ends;
    const auto run = [&](auto make) {
      Parameter a(golden_values("a", {16, 301}, 0x1p-17f)),
          b(golden_values("b", {32, 256}, 0x1p-17f)), bias(golden_values("c", {16}, 0x1p-17f)),
          codes(golden_values("d", {32, 256}, 0x1p-17f));
      a.name = "a", b.name = "b", bias.name = "bias", codes.name = "codes";
      set_weight_storage(b, DType::BF16);
      set_weight_storage_int8(codes);
      AdamOptions options{.seed = 3};
      options.m.codec = find_codec(c.m), options.v.codec = find_codec(c.v);
      const auto adam =
          make(std::vector<ParameterGroup>{{{&a, &b}, 1, 0.1}, {{&bias, &codes}, 2, 0}}, options);
      for (int t = 0; t < 4; ++t) {
        for (Parameter* p : {&a, &b, &bias, &codes}) {
          p->grad_buffer().copy_from(
              golden_values(p->name + std::to_string(t), p->shape(), 0x1p-16f));
          p->set_has_grad(p != &b || t != 2);
        }
        StepState state;
        state.begin(static_cast<std::uint32_t>(t), 1e-2);
        adam->step(state);
      }
      auto end = adam->state_tensors();
      for (Parameter* p : {&a, &b, &bias, &codes}) end.emplace_back(p->name, p->dense(DType::F32));
      ends.push_back(std::move(end));
      return adam->apart();
    };
    const auto apart =
        run([](auto groups, const auto& o) { return std::make_unique<AdamW>(groups, o); });
    CHECK(apart.size() == c.apart);
    if (c.apart) CHECK(apart.front().reason.find("group") != std::string::npos);
    CHECK(run([](auto groups, const auto& o) {
            return std::make_unique<ChainAdamW>(groups, o);
          }).size() == 4);
    for (std::size_t i = 0; i < ends[0].size(); ++i) {
      CAPTURE(ends[0][i].first);
      CHECK(same_bits(ends[0][i].second, ends[1][i].second));
    }
  }
}

// The study's section 2, transcribed: quantize the stored state at the start, update with fresh,
// unquantized moments, store those.
TEST_CASE("optim: simulated moments are the study's") {
  constexpr std::int64_t rows = 6, cols = 40;
  constexpr auto n = static_cast<std::size_t>(rows * cols);
  constexpr float b1 = 0.9f, b2 = 0.95f, eps = 1e-8f, floor = 1e-8f, wd = 0.1f;
  const auto quantize_rows = [&](std::vector<float>& x, float levels) {
    for (std::size_t r = 0; r < rows; ++r) {
      float range = floor;
      for (std::size_t c = 0; c < cols; ++c) range = std::max(range, std::fabs(x[r * cols + c]));
      const float step = range / levels;
      for (std::size_t c = 0; c < cols; ++c) {
        float& v = x[r * cols + c];
        v = std::nearbyint(std::clamp(v / step, -levels - 1, levels)) * step;
      }
    }
  };
  Parameter w(golden_values("w", {rows, cols}, 0x1p-17f)), table(w.storage().clone());
  w.name = "linear.weight", table.name = "table.weight";
  AdamOptions options;
  options.m = {.name = "m",
               .codec = find_codec("sim(int8:row:floor1e-08)"),
               .min_elements = 0,
               .eligible = [](const Parameter& p) { return p.name == "linear.weight"; }};
  options.v = {.name = "v",
               .codec = find_codec("sim(int4:row:floor1e-08)"),
               .min_elements = 0,
               .eligible = options.m.eligible};
  AdamW adam({{{&w, &table}, 1, wd}}, options);

  std::vector<float> p = w.storage().to_vector(), m(n), v(n);
  std::vector<float> free_p = p, free_m(n), free_v(n);
  for (int t = 1; t <= 6; ++t) {
    const Tensor gradient = golden_values(fmt::format("g{}", t), {rows, cols}, 0x1p-19f);
    const auto g = gradient.to_vector();
    const float lr = 0.01f;
    const auto update = [&](std::vector<float>& pp, std::vector<float>& mm,
                            std::vector<float>& vv) {
      for (std::size_t i = 0; i < n; ++i) {
        pp[i] *= 1 - lr * wd;
        mm[i] = mm[i] + (1 - b1) * (g[i] - mm[i]);
        vv[i] = b2 * vv[i] + (1 - b2) * g[i] * g[i];
        const double denominator = std::sqrt(vv[i]) / std::sqrt(1 - std::pow(0.95, t)) + eps;
        pp[i] -= static_cast<float>(lr / (1 - std::pow(0.9, t)) * mm[i] / denominator);
      }
    };
    quantize_rows(m, 127), quantize_rows(v, 7);
    update(p, m, v);
    update(free_p, free_m, free_v);
    for (Parameter* q : {&w, &table}) {
      q->grad_buffer().copy_from(gradient);
      q->set_has_grad(true);
    }
    StepState state;
    state.begin(static_cast<std::uint32_t>(t - 1), static_cast<double>(lr));
    adam.step(state);
    const auto as_double = [](const std::vector<float>& x) {
      return std::vector<double>(x.begin(), x.end());
    };
    CAPTURE(t);
    testing::check_close(w.storage(), as_double(p), 1e-5);
    testing::check_close(table.storage(), as_double(free_p), 1e-5);
    // The stored state is the fresh one, not the quantized one.
    for (const auto& [name, tensor] : adam.state_tensors()) {
      if (name == "linear.weight/m.value") testing::check_close(tensor, as_double(m), 1e-5, 1e-4);
      if (name == "linear.weight/v.value") testing::check_close(tensor, as_double(v), 1e-5, 1e-6);
    }
  }
  double apart = 0;
  for (std::size_t i = 0; i < n; ++i)
    apart = std::max(apart, std::fabs(static_cast<double>(p[i]) - static_cast<double>(free_p[i])));
  CHECK(apart > 1e-3);  // or the comparison with the quantized transcription proves nothing
}

// ---- weights in low precision ----------------------------------------------------------------

TEST_CASE("optim: stochastic rounding to bf16 is unbiased and keeps what is not finite") {
  const float base = 1.0f + 0x1p-7f;  // bf16 neighbours of 1 + k·2⁻⁷
  for (const double share : {0.0, 0.1, 0.5, 0.77}) {
    CAPTURE(share);
    constexpr std::int64_t n = 1 << 16;
    const auto x = static_cast<float>(static_cast<double>(base) + share * 0x1p-7);
    Tensor y = Tensor::empty({n}, DType::BF16);
    cpu::stochastic_bf16(y, Tensor::full({n}, static_cast<double>(x)), RngKey{3, 4});
    double mean = 0;
    for (const double v : y.to_vector<double>()) {
      const bool neighbour =
          v == static_cast<double>(base) || v == static_cast<double>(base) + 0x1p-7;
      REQUIRE(neighbour);
      mean += v / n;
    }
    const double deviation = 0x1p-7 * std::sqrt(share * (1 - share) / n);
    CHECK(std::fabs(mean - static_cast<double>(x)) <= 5 * deviation + 1e-9);
    Tensor other = Tensor::empty({n}, DType::BF16);
    cpu::stochastic_bf16(other, Tensor::full({n}, static_cast<double>(x)), RngKey{3, 5});
    CHECK(same_bits(y, other) == (share == 0.0));
  }
  const float inf = std::numeric_limits<float>::infinity(),
              nan = std::numeric_limits<float>::quiet_NaN();
  Tensor y = Tensor::empty({5}, DType::BF16);
  cpu::stochastic_bf16(y, Tensor::from(std::vector<float>{inf, -inf, nan, -0.0f, 0x1p-130f}, {5}),
                       RngKey{3, 4});
  const auto v = y.to_vector();
  CHECK(v[0] == inf);
  CHECK(v[1] == -inf);
  CHECK(std::isnan(v[2]));
  CHECK((v[3] == 0 && std::signbit(v[3])));
  CHECK(v[4] == 0x1p-130f);
}

// Descends by updates far below the grid of the stored weights: only unbiased rounding gets on.
double drift(void (*store)(Parameter&)) {
  Parameter w(Tensor::full({32, 256}, 1));
  w.name = "w";
  {
    auto x = w.storage().to_vector();
    for (std::size_t r = 0; r < 32; ++r) x[r * 256] = 2;  // fixes int8's row scale
    w.storage().copy_from(Tensor::from(x, {32, 256}));
  }
  store(w);
  Sgd sgd({{{&w}}}, {.seed = 7});
  Tensor g = Tensor::full({32, 256}, 1);
  for (int r = 0; r < 32; ++r) g.slice(0, r, r + 1).slice(1, 0, 1).fill(0);
  for (int t = 0; t < 64; ++t) {
    w.grad_buffer().copy_from(g);
    w.set_has_grad(true);
    StepState state;
    state.begin(static_cast<std::uint32_t>(t), 0x1p-12);
    sgd.step(state);
  }
  double sum = 0;
  const auto x = w.dense(DType::F32).to_vector<double>();
  for (std::size_t i = 0; i < x.size(); ++i) sum += i % 256 ? x[i] : 0;
  return 1 - sum / (32 * 255);
}

TEST_CASE("optim: bf16 and int8 weights follow updates below their grid") {
  const double exact = 64 * 0x1p-12;
  CHECK(drift([](Parameter&) {}) == doctest::Approx(exact).epsilon(1e-4));
  CHECK(drift([](Parameter& p) { set_weight_storage(p, DType::BF16); }) ==
        doctest::Approx(exact).epsilon(0.05));
  CHECK(drift([](Parameter& p) { set_weight_storage_int8(p); }) ==
        doctest::Approx(exact).epsilon(0.08));
}

TEST_CASE("optim: int8 storage takes a byte an element, starts at the nearest codes") {
  Parameter w(golden_values("w", {8, 64}, 0x1p-17f)), b(Tensor::full({8}, 0.3));
  w.name = "w", b.name = "b";
  const Tensor before = w.storage().clone();
  set_weight_storage_int8(w);
  set_weight_storage_int8(b);
  CHECK_FALSE(b.is_quantized());
  REQUIRE(w.is_quantized());
  CHECK(w.quantized().bytes() == 8 * 64 + 8 * 4);
  QuantSpec nearest = w.quantized().spec();
  CHECK(nearest.rounding == Rounding::Stochastic);
  nearest.rounding = Rounding::Nearest;
  CHECK(same_bits(w.dense(DType::F32), fake_quantize(before, nearest)));
  set_weight_storage(b, DType::BF16);
  CHECK(b.storage().dtype() == DType::BF16);
  CHECK_THROWS_AS(set_weight_storage(b, DType::I8), Error);
}

}  // namespace
}  // namespace nibble
