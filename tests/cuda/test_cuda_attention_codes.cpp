// quant_attention against attention and the quantizers of its output. Tier: exact, on one device;
// the CPU's half is their composition.
#include <utility>

#include "quant/attention_codes.h"
#include "quant/pair_twin.h"
#include "tensor/cuda/attention_routes.h"
#include "tests/cuda/quant_inputs.h"

using namespace nibble;
using namespace nibble::testing;

namespace {

struct Case {
  std::int64_t b, t, h, hkv, d;
  bool causal = true;
  double dropout = 0;
};
constexpr const char* kNames[] = {"out",        "log-sum-exp",  "row codes",
                                  "row scales", "column codes", "column scales"};

// Every output between sentinels.
struct Outputs {
  std::vector<Framed> all;

  Outputs(const Case& c, const QuantSpec& by_row, const QuantSpec& by_column, bool columns) {
    const std::int64_t rows = c.b * c.t, cols = c.h * c.d;
    const auto add = [&](const Shape& shape, DType dtype) {
      all.push_back(framed(shape, dtype, kGpu, 0));
      all.back().inner.fill(3);
    };
    add({c.b, c.t, c.h, c.d}, DType::BF16);
    add({c.b, c.h, c.t}, DType::F32);
    add({rows, cols}, DType::I8);
    add(by_row.scale_shape(rows, cols), DType::F32);
    if (!columns) return;
    add({cols, rows}, DType::I8);
    add(by_column.scale_shape(cols, rows), DType::F32);
  }
  Tensor& at(std::size_t i) {
    static Tensor none;
    return i < all.size() ? all[i].inner : none;
  }
  void check_frames() const {
    for (const Framed& f : all) {
      Tensor back = f.buffer.to(kCpu).clone();
      const Tensor inner = f.inner;
      back.slice(0, 64, 64 + inner.numel()).fill(77);
      check_bits(Tensor::full(back.shape(), 77, back.dtype()), back, "sentinels");
    }
  }
};

void check_codes(const Case& c, const char* spec, const Tensor& packed, bool columns = true) {
  if (!in_sample()) return;
  CAPTURE(fmt::format("[{}, {}, {}/{}, {}] causal {} dropout {}, {}", c.b, c.t, c.h, c.hkv, c.d,
                      c.causal, c.dropout, spec));
  const QuantSpec by_row = parse_spec(spec), by_column = by_row;
  const Tensor x = packed.to(kGpu);
  const Tensor q = x.slice(2, 0, c.h), k = x.slice(2, c.h, c.h + c.hkv),
               v = x.slice(2, c.h + c.hkv, c.h + 2 * c.hkv);
  const AttentionOptions options{.causal = c.causal, .dropout = c.dropout, .key = {5, 6, nullptr}};
  REQUIRE(has_attention_codes({q, k, options}, by_row, by_column));
  Outputs fused(c, by_row, by_column, columns), apart(c, by_row, by_column, columns);
  cuda::quant_attention(fused.at(0), fused.at(1), fused.at(2), fused.at(3), fused.at(4),
                        fused.at(5), q, k, v, options, by_row, by_column);
  cuda::own_attention(apart.at(0), apart.at(1), q, k, v, options);
  PairSource source;
  source.x = apart.at(0).view({c.b * c.t, c.h * c.d});
  Tensor none;
  pair_twin(apart.at(2), apart.at(3), apart.at(4), apart.at(5), none, none, source, by_row,
            by_column, {});
  for (std::size_t i = 0; i < fused.all.size(); ++i)
    check_bits(apart.at(i).to(kCpu), fused.at(i), kNames[i]);
  fused.check_frames();
}

Tensor packed(const Case& c, double size = 1.5) {
  return uniform({c.b, c.t, c.h + 2 * c.hkv, c.d}, DType::BF16, -size, size);
}

constexpr const char* kGroups = "int8:group128:recip";
constexpr Case kCases[]{
    {1, 128, 2, 2, 64},
    {2, 256, 4, 4, 64},
    {3, 384, 6, 2, 64},
    {2, 1024, 12, 12, 64},
    {2, 512, 2, 1, 64, true, 0.1},
    {1, 640, 6, 6, 64, false, 0.2},
};

}  // namespace

TEST_CASE("attention codes: which cases it serves") {
  AttentionProblem p;
  p.batch = 2, p.queries = p.keys = 128, p.heads = p.key_heads = 12, p.width = 64;
  const auto serves = [&](const char* spec) {
    return has_attention_codes(p, parse_spec(spec), parse_spec(spec));
  };
  const auto with = [&](auto field, auto value) {
    const auto before = std::exchange(p.*field, value);
    const bool served = serves(kGroups);
    p.*field = before;
    return served;
  };
  using P = AttentionProblem;
  CHECK(serves(kGroups));
  CHECK(with(&P::queries, 1024));
  CHECK(with(&P::key_heads, 1));
  CHECK_FALSE(with(&P::queries, 192));
  CHECK_FALSE(with(&P::queries, 2048));  // cuDNN's forward is faster
  CHECK_FALSE(with(&P::causal, false));
  CHECK_FALSE(with(&P::heads, 25));  // 12 groups and a half
  CHECK_FALSE(with(&P::width, 128));
  CHECK_FALSE(with(&P::dtype, DType::F32));
  CHECK_FALSE(with(&P::batch, 0));
  p.causal = false, p.dropout = 0.1;  // which cuDNN does not serve
  CHECK(serves(kGroups));
  CHECK_FALSE(serves("int8:group128"));
  CHECK_FALSE(serves("int8:group128:recip:sr"));
  CHECK_FALSE(
      has_attention_codes(p, parse_spec("int8:row:recip"), parse_spec("int8:group256:recip")));
}

GPU_TEST("cuda attention codes: output and codes are those of the kernels apart") {
  for (const Case& c : kCases) check_codes(c, kGroups, packed(c));
  for (const char* spec : {"int4:group128:recip:floor0.5", "int8:group128:recip:absmax1.5"})
    check_codes(kCases[1], spec, packed(kCases[1]));
}

GPU_TEST("cuda attention codes: columns that are not wanted are not written") {
  check_codes(kCases[1], kGroups, packed(kCases[1]), false);
}

// Values decide what the output is: the last keys' are seen by few queries.
GPU_TEST("cuda attention codes: zeros, extremes, infinities and NaN") {
  const Case c{1, 256, 4, 4, 64};
  for (const double special : {0.0, 1e-39, 3e38, double{INFINITY}, std::nan("")}) {
    CAPTURE(special);
    Tensor x = packed(c);
    x.slice(1, 200, 201).slice(2, 9, 10).fill(special);
    x.slice(2, 10, 11).fill(special == 0 || special < 1 ? special : 1);
    check_codes(c, kGroups, x);
  }
}
