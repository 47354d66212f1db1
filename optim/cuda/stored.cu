// AdamW over all parameters in one launch, moments as they are stored: decoded, updated and encoded
// in registers, with every operation that the unfused chain has (optim/cpu/stored.cpp), in its
// order. Moves, an element of an f32 weight with an f32 gradient and two one-byte moments: 16
// bytes, and a scale each way a group; computes 93 instructions with 8-bit code books, 25 more for
// each tensor of draws. 2 GB and 0.47 ms at 4.25 TB/s for GPT-2 124M, where they take 0.61 (77 %,
// f32 moments 92 %): issue slots 72 % busy, DRAM 62 %. `nibble bench kernels` measures whole
// models.
#include <algorithm>
#include <bit>
#include <memory>

#include "optim/cuda/stored_rows.h"
#include "optim/cuda/stored_state.cuh"
#include "optim/update_math.h"

namespace nibble::cuda {
namespace {

constexpr unsigned kBlock = 256, kWarps = kBlock / kWarp;
// Parameters of a launch: their table is a kernel parameter (of at most 32,764 bytes), so that
// nothing is uploaded and a captured graph holds it.
constexpr int kSegments = 208;

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

template <bool kVectors>
__device__ void store_weight(const Segment& s, bool bf16, std::uint64_t at, Extent<kVectors> n,
                             const RngKey& draws, const float (&w)[8]) {
  if (!bf16) return store_f32(s.weight, at, w, n);
  std::uint32_t noise[4];
  draw(draws, s.weight_site, at, noise);
  bfloat16 y[8];
#pragma unroll
  for (unsigned j = 0; j < 8; ++j) y[j] = update::stochastic_bf16(w[j], draw_of(noise, j));
  store_bf16(s.weight, at, y, n);
}

template <Known kM, bool kF32>  // blocks of a multiprocessor
inline constexpr int kBlocks = kM == Known::SignedBook ? (kF32 ? 4 : 3) : 2;

// A warp takes units of 256 · kEach columns of a row: whole groups. kF32: weights and gradients.
template <int kEach, Known kM, Known kV, bool kF32, bool kVectors>
__global__ void __launch_bounds__(kBlock, kBlocks<kM, kF32>)
    stored_kernel(const __grid_constant__ Work work) {
  if (work.step->bad) return;
  extern __shared__ std::uint32_t shared[];
  auto& m_tables = *reinterpret_cast<StateTables*>(shared);
  auto& v_tables =
      *reinterpret_cast<StateTables*>(shared + StateTables::bytes(work.codes[0]) / sizeof(float));
  prepare<kM>(work.codes[0], m_tables);
  prepare<kV>(work.codes[1], v_tables);
  __syncthreads();

  const std::uint32_t stride = gridDim.x * kWarps;
  const auto rule_of = [&](const Segment& s) {
    return AdamVector(
        {work.rule, step_of(s, *work.step), work.corrections[0], work.corrections[1]});
  };
  std::uint32_t own = 0;
  AdamVector element = rule_of(work.segments[0]);
  for (std::uint32_t unit = blockIdx.x * kWarps + threadIdx.x / kWarp; unit < work.units;
       unit += stride) {
    bool moved = false;
    while (own + 1 < work.count && unit >= work.segments[own + 1].first_unit) ++own, moved = true;
    const Segment& s = work.segments[own];
    if (moved) element = rule_of(s);

    std::uint32_t across = unit - s.first_unit, row = 0;
    if (s.rows > 1) {
      row = s.inverse > 0 ? __umulhi(across, s.inverse) : across / s.units_across;
      across -= row * s.units_across;
    }
    const Place<kEach, kVectors> p(s, row, across);
    const bool bf16_weight = !kF32 && s.bf16_weight, bf16_gradient = !kF32 && s.bf16_gradient;
    Raw raw_w[kEach], raw_g[kEach];
    State<kEach, kM, kVectors> m_state(work.codes[0], m_tables, p, s, 0);
    State<kEach, kV, kVectors> v_state(work.codes[1], v_tables, p, s, 1);
#pragma unroll
    for (int e = 0; e < kEach; ++e) {
      load_values(raw_w[e], s.weight, p.at[e], bf16_weight, p.n[e]);
      load_values(raw_g[e], s.gradient, p.at[e], bf16_gradient, p.n[e]);
    }
    m_state.load(s.states[0], s.scales[0]);
    v_state.load(s.states[1], s.scales[1]);

    float m[kEach][8], v[kEach][8];
#pragma unroll
    for (int e = 0; e < kEach; ++e) {
      float w[8], g[8];
      values_of(raw_w[e], bf16_weight, w);
      values_of(raw_g[e], bf16_gradient, g);
      m_state.decode(e, m[e]);
      v_state.decode(e, v[e]);
      const MostOfMoments most = element(w, m[e], v[e], g, p.n[e].count > 0);
      m_state.most[e] = most.m, v_state.most[e] = most.v;
      store_weight(s, bf16_weight, p.at[e], p.n[e], work.draws, w);
    }
    m_state.store(s.states[0], s.scales[0], work.draws, s.sites[0], m);
    v_state.store(s.states[1], s.scales[1], work.draws, s.sites[1], v);
  }
}

// ---- the launch ----------------------------------------------------------------------------

// Parameters whose states have one form.
struct Launch {
  std::optional<QuantSpec> specs[2];
  bool vectors, f32;  // weights and gradients
  std::vector<Segment> segments;
};
// Units hold groups of at most 256 columns, those of run<2> more.
bool has_narrow_groups(const StoredUpdate& u) {
  return std::ranges::all_of(
      u.states, [](const StoredState& s) { return !s.spec || s.spec->tile.cols <= 256; });
}

// What rows have left after whole units, where that is the share of 1, 2, 4, 8 or 16 lanes: there a
// unit takes the ends of several rows.
void split_ends(const Segment& s, std::vector<Segment>& to) {
  const unsigned lanes = s.cols % 256 / 8;
  if (!s.vectors || s.rows == 1 || lanes == 0 || kWarp % lanes > 0) return to.push_back(s);
  Segment whole = s, ends = s;
  whole.end_col = ends.first_col = s.cols - lanes * 8;
  ends.log_rows = static_cast<std::uint32_t>(std::countr_zero(kWarp / lanes));
  if (whole.end_col > 0) to.push_back(whole);
  to.push_back(ends);
}

std::vector<Launch> launches_of(std::vector<StoredUpdate>& all) {
  std::vector<Launch> launches;
  for (StoredUpdate& u : all) {
    if (u.weight.numel() == 0 || u.weight_spec) continue;
    const Segment s = segment_of(u, true);
    const bool f32 = !s.bf16_weight && !s.bf16_gradient;
    const auto fits = [&](const Launch& l) {
      return l.segments.size() + 2 <= kSegments && l.vectors == s.vectors && l.f32 == f32 &&
             l.specs[0] == u.states[0].spec && l.specs[1] == u.states[1].spec;
    };
    auto at = std::ranges::find_if(launches, fits);
    if (at == launches.end())
      at = launches.insert(at, Launch{{u.states[0].spec, u.states[1].spec}, s.vectors, f32, {}});
    if (has_narrow_groups(u))
      split_ends(s, at->segments);
    else
      at->segments.push_back(s);
  }
  return launches;
}

template <int kEach, Known kM = Known::Nothing, Known kV = kM, bool kF32 = false>
void run(Work& work, const Launch& l) {
  constexpr std::int64_t kMost = (std::int64_t{1} << 32) - (1 << 16);  // a stride more fits
  for (Segment s : l.segments) {
    s.first_unit = work.units;
    s.units_across = ceil_div(s.end_col - s.first_col, 256u * kEach);
    const std::int64_t down = ceil_div(s.rows, 1u << s.log_rows), own = down * s.units_across,
                       units = work.units + own;
    NIBBLE_CHECK(units < kMost, "adam", "got {} elements on a GPU, expected less", units * 256);
    if (s.units_across > 1 && own * s.units_across < kMost) s.inverse = ~0u / s.units_across + 1;
    work.units = static_cast<std::uint32_t>(units);
    work.segments[work.count++] = s;
  }
  const std::size_t shared = StateTables::bytes(work.codes[0]) + StateTables::bytes(work.codes[1]);
  const std::int64_t blocks = std::min<std::int64_t>(
      ceil_div(work.units, kWarps), std::int64_t{multiprocessors()} * kBlocks<kM, kF32>);
  launch(stored_kernel<kEach, kM, kV, kF32, kM != Known::Nothing>, static_cast<unsigned>(blocks),
         kBlock, shared, work);
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
      l.f32 ? run<1, SignedBook, UnsignedBook, true>(*work, l)
            : run<1, SignedBook, UnsignedBook>(*work, l);
    else if (l.vectors && m.is_plain_book(true) && v.is_stochastic_book())
      l.f32 ? run<1, SignedBook, StochasticBook, true>(*work, l)
            : run<1, SignedBook, StochasticBook>(*work, l);
    else
      run<1>(*work, l);
  }
  adam_stored_rows(all, rule, step, corrections, draws);
}

}  // namespace nibble::cuda
