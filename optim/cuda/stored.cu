// AdamW over all parameters in one launch, moments as they are stored: decoded, updated and encoded
// in registers, with every operation that the unfused chain has (optim/cpu/stored.cpp), in its
// order. Moves, an element of an f32 weight with an f32 gradient and two one-byte moments: 16
// bytes, and a scale each way a group; computes about 80 operations, 25 more for each tensor of
// draws. 2 GB and 0.5 ms at GPT-2 124M, where 8-bit moments take 0.82:
// bound by instructions (f32 ones by memory). `nibble bench kernels` measures it,
// on whole models.
#include <algorithm>
#include <memory>

#include "optim/cuda/lane_words.cuh"
#include "optim/cuda/state_code.cuh"
#include "optim/update_math.h"

namespace nibble::cuda {
namespace {

constexpr unsigned kBlock = 256, kWarps = kBlock / kWarp;
// Parameters of a launch: their table is a kernel parameter (of at most 32,764 bytes), so that
// nothing is uploaded and a captured graph holds it.
constexpr int kSegments = 240;

struct Segment {
  void *weight, *states[2], *scales[2];  // no scales: values
  const void* gradient;
  GroupRule group;
  std::int64_t rows, cols;  // all in one row where no group would cross from one to the next
  std::uint32_t first_unit, units_across;
  std::uint32_t weight_site, sites[2];
  bool bf16_weight, bf16_gradient, bf16_states[2], vectors;
};

struct Work {
  Segment segments[kSegments];
  StateCode codes[2];
  AdamRule rule;
  const StepScalars* step;
  const float* corrections;
  RngKey draws;
  std::uint32_t count, units;
};
static_assert(sizeof(Work) <= 32764);

// ---- the kernel ----------------------------------------------------------------------------

// A warp's share of a step: kEach vectors of eight elements a lane, side by side in a row.
template <int kEach, bool kVectors>
struct Place {
  std::int64_t row, cols, col[kEach], at[kEach];
  Extent<kVectors> n[kEach];
};

// A state of a unit: loaded, decoded; encoded.
template <int kEach, Known kKnown, bool kVectors>
struct State {
  using Here = Place<kEach, kVectors>;
  const StateCode& c;
  const StateTables& t;
  const StateFacts f;
  const Here& p;
  bool bf16;  // values
  Raw raw[kEach];
  float step[kEach];

  __device__ State(const StateCode& code, const StateTables& tables, const Here& place,
                   bool is_bf16)
      : c(code), t(tables), f(facts_of<kKnown>(code)), p(place), bf16(is_bf16) {}

  __device__ std::int64_t scale_at(int e) const {
    const std::int64_t across = (p.cols + (1 << c.log_group) - 1) >> c.log_group;
    return p.row * across + (p.col[e] >> c.log_group);
  }
  template <class Byte>
  __device__ Byte* codes_at(Byte* codes, int e) const {
    return f.packed ? codes + p.row * ((p.cols + 1) / 2) + p.col[e] / 2 : codes + p.at[e];
  }
  __device__ Extent<kVectors> packed_bytes(int e) const {
    return {(p.n[e].count + 1) / 2, p.n[e].whole};
  }

  __device__ void load(const void* values, const void* scales) {
    const auto* codes = static_cast<const std::uint8_t*>(values);
#pragma unroll
    for (int e = 0; e < kEach; ++e) {
      if (!f.coded) {
        load_values(raw[e], values, p.at[e], bf16, p.n[e]);
        continue;
      }
      step[e] = p.n[e].count > 0 ? load_step(f.scale, scales, scale_at(e)) : 0.0f;
      if (f.packed)
        load_words<1>(raw[e], codes_at(codes, e), packed_bytes(e));
      else
        load_words<2>(raw[e], codes_at(codes, e), p.n[e]);
    }
  }
  __device__ void decode(int e, float (&x)[8]) const {
    if (!f.coded) return values_of(raw[e], bf16, x);
    cuda::decode(f, c, t, f.packed ? widen_nibbles(raw[e].w[0]) : uint2{raw[e].w[0], raw[e].w[1]},
                 step[e], x);
    if (p.n[e].count >= 8) return;
#pragma unroll
    for (int j = 0; j < 8; ++j)
      if (j >= p.n[e].count) x[j] = 0;  // whatever code 0 means
  }
  __device__ void store(void* to, void* scales, const RngKey& draws, std::uint32_t site,
                        const float (&x)[kEach][8]) const {
    if (!f.coded) {
#pragma unroll
      for (int e = 0; e < kEach; ++e) store_values(to, p.at[e], x[e], bf16, p.n[e]);
      return;
    }
    std::uint32_t most[kEach], joined = 0;
#pragma unroll
    for (int e = 0; e < kEach; ++e) {
      most[e] = 0;
#pragma unroll
      for (int j = 0; j < 8; ++j)
        most[e] = ::max(most[e], std::bit_cast<std::uint32_t>(x[e][j]) & 0x7fffffffu);
      most[e] = largest(most[e], c.lanes);
      joined = ::max(joined, most[e]);
    }
#pragma unroll
    for (int e = 0; e < kEach; ++e) {
      if (kEach > 1 && c.lanes > kWarp) most[e] = joined;
      const bool first = (threadIdx.x % kWarp & (c.lanes - 1)) == 0 && (c.lanes <= kWarp || e == 0);
      const float own =
          store_step(f.scale, c, scales, scale_at(e), most[e], first && p.n[e].count > 0);
      std::uint32_t noise[4] = {};
      if (f.stochastic) draw(draws, site, p.at[e], noise);
      store_codes(static_cast<std::uint8_t*>(to), e, encode(f, c, t, x[e], own, most[e], noise));
    }
  }
  __device__ void store_codes(std::uint8_t* to, int e, uint2 bytes) const {
    Raw out;
    if (!f.packed) {
      out.w[0] = bytes.x, out.w[1] = bytes.y;
      return store_words<2>(codes_at(to, e), out, p.n[e]);
    }
    out.w[0] = join_nibbles(bytes);
    // An odd row's last byte holds one code and no more.
    if (p.n[e].count < 8) out.w[0] &= (1u << (4 * p.n[e].count)) - 1;
    store_words<1>(codes_at(to, e), out, packed_bytes(e));
  }
};

template <bool kVectors>
__device__ void store_weight(const Segment& s, std::int64_t at, Extent<kVectors> n,
                             const RngKey& draws, const float (&w)[8]) {
  if (!s.bf16_weight) return store_f32(s.weight, at, w, n);
  std::uint32_t noise[4];
  draw(draws, s.weight_site, at, noise);
  bfloat16 y[8];
#pragma unroll
  for (unsigned j = 0; j < 8; ++j) y[j] = update::stochastic_bf16(w[j], draw_of(noise, j));
  store_bf16(s.weight, at, y, n);
}

template <int kEach, Known kM>  // blocks of a multiprocessor
inline constexpr int kBlocks = kM == Known::SignedBook ? 3 : 2;

// A warp takes units of 256 · kEach columns of a row: whole groups.
template <int kEach, Known kM, Known kV, bool kVectors>
__global__ void __launch_bounds__(kBlock, kBlocks<kEach, kM>)
    stored_kernel(const __grid_constant__ Work work) {
  extern __shared__ std::uint32_t shared[];
  auto& m_tables = *reinterpret_cast<StateTables*>(shared);
  auto& v_tables = *reinterpret_cast<StateTables*>(
      shared +
      (work.codes[0].kind == StateCode::Kind::Int ? 0 : 512 + work.codes[0].book.entries()));
  prepare(work.codes[0], m_tables);
  prepare(work.codes[1], v_tables);
  __syncthreads();

  const std::uint32_t lane = threadIdx.x % kWarp, stride = gridDim.x * kWarps;
  const auto rule_of = [&](const Segment& s) {
    return update::Adam(work.rule, {s.group, *work.step}, work.corrections[0], work.corrections[1]);
  };
  std::uint32_t own = 0;
  update::Adam element = rule_of(work.segments[0]);
  for (std::uint32_t unit = blockIdx.x * kWarps + threadIdx.x / kWarp; unit < work.units;
       unit += stride) {
    bool moved = false;
    while (own + 1 < work.count && unit >= work.segments[own + 1].first_unit) ++own, moved = true;
    const Segment& s = work.segments[own];
    if (moved) element = rule_of(s);

    Place<kEach, kVectors> p;
    std::uint32_t across = unit - s.first_unit, row = 0;
    if (s.rows > 1) row = across / s.units_across, across -= row * s.units_across;
    p.row = row, p.cols = s.cols;
#pragma unroll
    for (int e = 0; e < kEach; ++e) {
      p.col[e] = (std::int64_t{across} * kEach + e) * 256 + lane * 8;
      p.at[e] = p.row * s.cols + p.col[e];
      const std::int64_t left = s.cols - p.col[e];
      const bool some = left > 0;
      p.n[e].count = left >= 8 || (kVectors && some) ? 8 : some ? static_cast<int>(left) : 0;
      p.n[e].whole = kVectors ? some : s.vectors && left >= 8;
    }
    Raw raw_w[kEach], raw_g[kEach];
    State<kEach, kM, kVectors> m_state(work.codes[0], m_tables, p, s.bf16_states[0]);
    State<kEach, kV, kVectors> v_state(work.codes[1], v_tables, p, s.bf16_states[1]);
#pragma unroll
    for (int e = 0; e < kEach; ++e) {
      load_values(raw_w[e], s.weight, p.at[e], s.bf16_weight, p.n[e]);
      load_values(raw_g[e], s.gradient, p.at[e], s.bf16_gradient, p.n[e]);
    }
    m_state.load(s.states[0], s.scales[0]);
    v_state.load(s.states[1], s.scales[1]);

    float m[kEach][8], v[kEach][8];
#pragma unroll
    for (int e = 0; e < kEach; ++e) {
      float w[8], g[8];
      values_of(raw_w[e], s.bf16_weight, w);
      values_of(raw_g[e], s.bf16_gradient, g);
      m_state.decode(e, m[e]);
      v_state.decode(e, v[e]);
#pragma unroll
      for (int j = 0; j < 8; ++j) element(w[j], m[e][j], v[e][j], g[j]);
      store_weight(s, p.at[e], p.n[e], work.draws, w);
    }
    m_state.store(s.states[0], s.scales[0], work.draws, s.sites[0], m);
    v_state.store(s.states[1], s.scales[1], work.draws, s.sites[1], v);
  }
}

// ---- the launch ----------------------------------------------------------------------------

// But for its units.
Segment segment_of(StoredUpdate& u) {
  Segment s{};
  s.weight = u.weight.raw(), s.gradient = u.gradient.raw();
  s.group = u.group;
  s.rows = u.weight.size(0), s.cols = u.weight.size(1);
  s.bf16_weight = u.weight.dtype() == DType::BF16;
  s.bf16_gradient = u.gradient.dtype() == DType::BF16;
  s.weight_site = u.weight_site;
  bool aligned = is_aligned(s.weight, 16) && is_aligned(s.gradient, 16), one_row = true;
  for (std::size_t i = 0; i < 2; ++i) {
    StoredState& state = u.states[i];
    s.states[i] = state.values.raw();
    s.sites[i] = state.site;
    aligned = aligned && is_aligned(s.states[i], 16);
    if (state.spec) {
      s.scales[i] = state.scales.raw();
      one_row = one_row && s.cols % state.spec->tile.cols == 0;
    } else {
      s.bf16_states[i] = state.values.dtype() == DType::BF16;
    }
  }
  if (one_row) s.cols *= s.rows, s.rows = 1;
  s.vectors = aligned && s.cols % 8 == 0;
  return s;
}

// Parameters whose states have one form.
struct Launch {
  std::optional<QuantSpec> specs[2];
  bool vectors;
  std::vector<Segment> segments;
};
std::vector<Launch> launches_of(std::vector<StoredUpdate>& all) {
  std::vector<Launch> launches;
  for (StoredUpdate& u : all) {
    if (u.weight.numel() == 0) continue;
    const Segment s = segment_of(u);
    const auto fits = [&](const Launch& l) {
      return l.segments.size() < kSegments && l.vectors == s.vectors &&
             l.specs[0] == u.states[0].spec && l.specs[1] == u.states[1].spec;
    };
    auto at = std::ranges::find_if(launches, fits);
    if (at == launches.end())
      at = launches.insert(at, Launch{{u.states[0].spec, u.states[1].spec}, s.vectors, {}});
    at->segments.push_back(s);
  }
  return launches;
}

template <int kEach, Known kM = Known::Nothing, Known kV = kM>
void run(Work& work, const Launch& l) {
  for (Segment s : l.segments) {
    s.first_unit = work.units;
    s.units_across = static_cast<std::uint32_t>(ceil_div(s.cols, 256 * kEach));
    const std::int64_t units = work.units + s.rows * s.units_across;
    NIBBLE_CHECK(units < std::int64_t{1} << 32, "adam", "got {} elements on a GPU, expected less",
                 units * 256);
    work.units = static_cast<std::uint32_t>(units);
    work.segments[work.count++] = s;
  }
  const std::size_t shared = StateTables::bytes(work.codes[0]) + StateTables::bytes(work.codes[1]);
  const std::int64_t blocks = std::min<std::int64_t>(
      ceil_div(work.units, kWarps), std::int64_t{multiprocessors()} * kBlocks<kEach, kM>);
  launch(stored_kernel<kEach, kM, kV, kM != Known::Nothing>, static_cast<unsigned>(blocks), kBlock,
         shared, work);
}

}  // namespace

void adam_stored(std::vector<StoredUpdate>& all, const AdamRule& rule, const StepScalars* step,
                 const Tensor& corrections, const RngKey& draws) {
  using enum Known;
  for (const Launch& l : launches_of(all)) {
    const auto work =
        std::make_unique<Work>(Work{.segments = {},
                                    .codes = {StateCode(l.specs[0]), StateCode(l.specs[1])},
                                    .rule = rule,
                                    .step = step,
                                    .corrections = corrections.data<float>(),
                                    .draws = draws,
                                    .count = 0,
                                    .units = 0});
    const StateCode &m = work->codes[0], &v = work->codes[1];
    if (m.lanes > kWarp || v.lanes > kWarp)
      run<2>(*work, l);
    else if (l.vectors && !m.coded && !v.coded)
      run<1, Values>(*work, l);
    else if (l.vectors && m.is_plain_book(true) && v.is_plain_book(false))
      run<1, SignedBook, UnsignedBook>(*work, l);
    else
      run<1>(*work, l);
  }
}

}  // namespace nibble::cuda
