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
  std::int64_t rows, cols;  // all in one row where no group would cross from one to the next
  std::uint32_t first_unit, units_across;
  std::uint32_t weight_site, sites[2];
  bool bf16_weight, bf16_gradient, bf16_states[2], vectors;
};

// But for its units. `joins`: rows that no group of a state crosses are made one.
inline Segment segment_of(StoredUpdate& u, bool joins) {
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
  if (joins && one_row) s.cols *= s.rows, s.rows = 1;
  s.vectors = aligned && s.cols % 8 == 0;
  return s;
}

// A warp's share of a step: kEach vectors of eight elements a lane, side by side in a row.
template <int kEach, bool kVectors>
struct Place {
  std::int64_t row, cols, col[kEach], at[kEach];
  Extent<kVectors> n[kEach];

  // Unit `across` of a row.
  __device__ Place(const Segment& s, std::int64_t in_row, std::uint32_t across)
      : row(in_row), cols(s.cols) {
#pragma unroll
    for (int e = 0; e < kEach; ++e) {
      col[e] = (std::int64_t{across} * kEach + e) * 256 + threadIdx.x % kWarp * 8;
      at[e] = row * cols + col[e];
      const std::int64_t left = cols - col[e];
      const bool some = left > 0;
      n[e].count = left >= 8 || (kVectors && some) ? 8 : some ? static_cast<int>(left) : 0;
      n[e].whole = kVectors ? some : s.vectors && left >= 8;
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

}  // namespace nibble::cuda
