// A parameter, its gradient and its states as a launch sees them, and a lane's share of a state.
#pragma once

#include "optim/cuda/lane_words.cuh"
#include "optim/cuda/state_code.cuh"
#include "optim/kernels.h"

namespace nibble::cuda {

// A parameter of a launch.
struct Segment {
  void *weight, *states[2], *scales[2];  // no scales: values
  const void* gradient;
  GroupRule group;
  // All in one row where no group would cross from one to the next; columns of first_col to
  // end_col.
  std::uint32_t rows, cols, first_col, end_col;
  std::uint32_t groups_across[2];
  std::uint32_t first_unit, units_across;
  std::uint32_t inverse;  // of units_across: ⌈2^32 / units_across⌉ where that divides well, else 0
  std::uint32_t log_rows;  // of a unit: more than one where they are short
  const float* clip;       // in place of the step's, or null
  std::uint32_t weight_site, sites[2];
  bool bf16_weight, bf16_gradient, bf16_states[2], vectors;
};

// But for its units. `joins`: rows that no group of a state crosses are made one.
inline Segment segment_of(StoredUpdate& u, bool joins) {
  Segment s{};
  s.weight = u.weight.raw(), s.gradient = u.gradient.raw();
  s.group = u.group;
  std::int64_t rows = u.weight.size(0), cols = u.weight.size(1);
  s.bf16_weight = u.weight.dtype() == DType::BF16;
  s.bf16_gradient = u.gradient.dtype() == DType::BF16;
  s.clip = u.clip.defined() ? u.clip.data<float>() : nullptr;
  s.weight_site = u.weight_site;
  bool aligned = is_aligned(s.weight, 16) && is_aligned(s.gradient, 16), one_row = true;
  for (std::size_t i = 0; i < 2; ++i) {
    StoredState& state = u.states[i];
    s.states[i] = state.values.raw();
    s.sites[i] = state.site;
    aligned = aligned && is_aligned(s.states[i], 16);
    if (state.spec) {
      s.scales[i] = state.scales.raw();
      one_row = one_row && cols % state.spec->tile.cols == 0;
    } else {
      s.bf16_states[i] = state.values.dtype() == DType::BF16;
    }
  }
  constexpr std::int64_t kMost = (std::int64_t{1} << 32) - 1024;
  if (joins && one_row && cols * rows < kMost) cols *= rows, rows = 1;
  NIBBLE_CHECK(rows < kMost && cols < kMost, "adam",
               "got a parameter [{}, {}] on a GPU, expected at most 2^32 - 1025 rows and columns",
               rows, cols);
  s.rows = static_cast<std::uint32_t>(rows);
  s.cols = s.end_col = static_cast<std::uint32_t>(cols);
  for (std::size_t i = 0; i < 2; ++i)
    if (u.states[i].spec)
      s.groups_across[i] = static_cast<std::uint32_t>(ceil_div(cols, u.states[i].spec->tile.cols));
  s.vectors = aligned && s.cols % 8 == 0;
  return s;
}

__device__ inline update::GroupStep step_of(const Segment& s, const StepScalars& step) {
  update::GroupStep own(s.group, step);
  if (s.clip) own.clip = *s.clip;
  return own;
}

// A warp's share of a step: kEach vectors of eight elements a lane, side by side in a row.
template <int kEach, bool kVectors>
struct Place {
  std::uint32_t row, cols, col[kEach];
  std::uint32_t lanes;  // of a row
  std::uint64_t at[kEach];
  Extent<kVectors> n[kEach];

  // Unit `across` of rows.
  __device__ Place(const Segment& s, std::uint32_t rows, std::uint32_t across)
      : row((rows << s.log_rows) + (threadIdx.x % kWarp << s.log_rows) / kWarp),
        cols(s.cols),
        lanes(kWarp >> s.log_rows) {
#pragma unroll
    for (int e = 0; e < kEach; ++e) {
      col[e] = s.first_col + (across * kEach + static_cast<unsigned>(e)) * 256 +
               (threadIdx.x % kWarp & (lanes - 1)) * 8;
      at[e] = std::uint64_t{row} * cols + col[e];
      const bool some = row < s.rows && col[e] < s.end_col;
      const std::uint32_t left = s.end_col - col[e];
      n[e].count = !some ? 0 : kVectors || left >= 8 ? 8 : static_cast<int>(left);
      n[e].whole = kVectors ? some : some && s.vectors && left >= 8;
    }
  }
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
  std::uint32_t groups_across;
  Raw raw[kEach];
  float step[kEach];
  std::uint32_t most[kEach];  // bits of the largest magnitude of new values: a lane's

  __device__ State(const StateCode& code, const StateTables& tables, const Here& place,
                   const Segment& s, int state)
      : c(code),
        t(tables),
        f(facts_of<kKnown>(code)),
        p(place),
        bf16(s.bf16_states[state]),
        groups_across(s.groups_across[state]) {}

  __device__ std::uint64_t scale_at(int e) const {
    return std::uint64_t{p.row} * groups_across + (p.col[e] >> c.log_group);
  }
  template <class Byte>
  __device__ Byte* codes_at(Byte* codes, int e) const {
    return f.packed ? codes + std::uint64_t{p.row} * ((p.cols + 1) / 2) + p.col[e] / 2
                    : codes + p.at[e];
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
    if constexpr (!kVectors) {  // else a lane without elements has a step of 0
#pragma unroll
      for (int j = 0; j < 8; ++j)
        if (j >= p.n[e].count) x[j] = 0;  // whatever code 0 means
    }
  }
  __device__ void store(void* to, void* scales, const RngKey& draws, std::uint32_t site,
                        const float (&x)[kEach][8]) {
    if (!f.coded) {
#pragma unroll
      for (int e = 0; e < kEach; ++e) store_values(to, p.at[e], x[e], bf16, p.n[e]);
      return;
    }
    std::uint32_t joined = 0;
#pragma unroll
    for (int e = 0; e < kEach; ++e) {
      most[e] = largest(most[e], ::min(c.lanes, p.lanes));
      joined = ::max(joined, most[e]);
    }
#pragma unroll
    for (int e = 0; e < kEach; ++e) {
      if (kEach > 1 && c.lanes > kWarp) most[e] = joined;
      const bool first = (p.col[e] & ((1 << c.log_group) - 1)) == 0;
      const float own =
          store_step<kKnown>(f.scale, c, scales, scale_at(e), most[e], first && p.n[e].count > 0);
      std::uint32_t noise[4] = {};
      if (f.stochastic) draw(draws, site, p.at[e], noise);
      store_codes(static_cast<std::uint8_t*>(to), e,
                  encode<kKnown>(f, c, t, x[e], own, most[e], noise));
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

}  // namespace nibble::cuda
