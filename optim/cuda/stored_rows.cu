// AdamW of weights that are codes with a scale a row, without a master copy: a block decodes a row,
// updates it with its moments, finds its new scale and encodes it, stochastically where the spec
// says so; all bits are those of dequantize, adam and quantize_into (optim/cpu/stored.cpp). Moves,
// an element of an int8 weight with an f32 gradient and two one-byte moments: 10 bytes, and scales;
// computes some 100 operations, 25 more for each tensor of draws, so it is bound by instructions.
// The new row waits in shared memory for its scale; a row that is too long for it is computed
// twice, from what memory still holds.
#include <algorithm>
#include <memory>

#include "optim/cuda/stored_rows.h"
#include "optim/cuda/stored_state.cuh"
#include "optim/update_math.h"

namespace nibble::cuda {
namespace {

constexpr unsigned kMostThreads = 512;
constexpr int kSegments = 160;                      // of a launch; their table is a parameter
constexpr std::size_t kSharedBytes = 200 << 10;     // that a block may take
constexpr unsigned kThreadsOfMultiprocessor = 640;  // that registers allow, about

struct RowSegment : Segment {
  float* weight_scales;
};
struct RowWork {
  RowSegment segments[kSegments];
  StateCode codes[2], weight;
  AdamRule rule;
  const StepScalars* step;
  const float* corrections;
  RngKey draws;
  std::uint32_t count, rows;
};
static_assert(sizeof(RowWork) <= 32764);

template <int kEach, Known kM, Known kV, bool kVectors>
struct RowUnit {
  using Here = Place<kEach, kVectors>;
  const RowWork& work;
  const StateTables &m_tables, &v_tables;

  // New values of a unit, and those of its moments where `stores`; the largest magnitude's bits.
  __device__ std::uint32_t operator()(const RowSegment& s, const Here& p, const AdamVector& element,
                                      float step, bool stores, float (&w)[kEach][8]) const {
    State<kEach, kM, kVectors> m_state(work.codes[0], m_tables, p, s, 0);
    State<kEach, kV, kVectors> v_state(work.codes[1], v_tables, p, s, 1);
    Raw codes[kEach], raw_g[kEach];
#pragma unroll
    for (int e = 0; e < kEach; ++e) {
      load_words<2>(codes[e], static_cast<const std::uint8_t*>(s.weight) + p.at[e], p.n[e]);
      load_values(raw_g[e], s.gradient, p.at[e], s.bf16_gradient, p.n[e]);
    }
    m_state.load(s.states[0], s.scales[0]);
    v_state.load(s.states[1], s.scales[1]);
    float m[kEach][8], v[kEach][8];
    std::uint32_t most = 0;
#pragma unroll
    for (int e = 0; e < kEach; ++e) {
      float g[8];
      cuda::decode(weight_facts(), work.weight, m_tables, {codes[e].w[0], codes[e].w[1]}, step,
                   w[e]);
      values_of(raw_g[e], s.bf16_gradient, g);
      m_state.decode(e, m[e]);
      v_state.decode(e, v[e]);
      const MostOfMoments of = element(w[e], m[e], v[e], g, p.n[e].count > 0);
      m_state.most[e] = of.m, v_state.most[e] = of.v;
#pragma unroll
      for (int j = 0; j < 8; ++j)
        if (kVectors ? p.n[e].whole : j < p.n[e].count)
          most = ::max(most, std::bit_cast<std::uint32_t>(w[e][j]) & 0x7fffffffu);
    }
    if (stores) {
      m_state.store(s.states[0], s.scales[0], work.draws, s.sites[0], m);
      v_state.store(s.states[1], s.scales[1], work.draws, s.sites[1], v);
    }
    return most;
  }
  // Integers of a byte have no tables.
  __device__ StateFacts weight_facts() const {
    return {.coded = true,
            .kind = StateCode::Kind::Int,
            .scale = ScaleType::F32,
            .packed = false,
            .stochastic = work.weight.stochastic,
            .reciprocal = work.weight.reciprocal,
            .window = false,
            .negative = false};
  }
};

// The largest of a block's, in every thread; `shared` has a word a warp.
__device__ std::uint32_t block_largest(std::uint32_t most, std::uint32_t* shared) {
  const unsigned warps = blockDim.x / kWarp, lane = threadIdx.x % kWarp;
  most = __reduce_max_sync(kFullMask, most);
  __syncthreads();  // the row before has been read
  if (lane == 0) shared[threadIdx.x / kWarp] = most;
  __syncthreads();
  return __reduce_max_sync(kFullMask, lane < warps ? shared[lane] : 0u);
}

template <int kEach, Known kM, Known kV, bool kVectors, bool kKeeps>
__global__ void __launch_bounds__(kMostThreads) rows_kernel(const __grid_constant__ RowWork work) {
  if (work.step->bad) return;
  extern __shared__ std::uint32_t shared[];
  __shared__ std::uint32_t most_of_warp[kWarp];
  const std::size_t m_words = StateTables::bytes(work.codes[0]) / sizeof(float),
                    v_words = StateTables::bytes(work.codes[1]) / sizeof(float);
  auto& m_tables = *reinterpret_cast<StateTables*>(shared);
  auto& v_tables = *reinterpret_cast<StateTables*>(shared + m_words);
  auto* const kept = reinterpret_cast<float*>(shared + m_words + v_words);
  prepare<kM>(work.codes[0], m_tables);
  prepare<kV>(work.codes[1], v_tables);
  __syncthreads();

  const RowUnit<kEach, kM, kV, kVectors> update_unit{work, m_tables, v_tables};
  const StateFacts facts = update_unit.weight_facts();
  const std::uint32_t warp = threadIdx.x / kWarp, warps = blockDim.x / kWarp,
                      lane = threadIdx.x % kWarp;
  // Element j of a lane lies beside those of the other lanes: no two share a bank.
  const auto place_kept = [&](std::uint32_t across, int e, unsigned j) {
    return (across * kEach + static_cast<unsigned>(e)) * 256 + j * kWarp + lane;
  };
  std::uint32_t own = 0;
  for (std::uint32_t at = blockIdx.x; at < work.rows; at += gridDim.x) {
    while (own + 1 < work.count && at >= work.segments[own + 1].first_unit) ++own;
    const RowSegment& s = work.segments[own];
    const std::uint32_t row = at - s.first_unit;
    const AdamVector element(
        {work.rule, step_of(s, *work.step), work.corrections[0], work.corrections[1]});
    const float before = s.weight_scales[row];
    std::uint32_t most = 0;
    for (std::uint32_t across = warp; across < s.units_across; across += warps) {
      const Place<kEach, kVectors> p(s, row, across);
      float w[kEach][8];
      most = ::max(most, update_unit(s, p, element, before, kKeeps, w));
      if constexpr (kKeeps) {
#pragma unroll
        for (int e = 0; e < kEach; ++e)
#pragma unroll
          for (unsigned j = 0; j < 8; ++j) kept[place_kept(across, e, j)] = w[e][j];
      }
    }
    most = block_largest(most, most_of_warp);
    const float step = store_step<Known::Nothing>(ScaleType::F32, work.weight, s.weight_scales, row,
                                                  most, threadIdx.x == 0);
    for (std::uint32_t across = warp; across < s.units_across; across += warps) {
      const Place<kEach, kVectors> p(s, row, across);
      float w[kEach][8];
      if constexpr (kKeeps) {
#pragma unroll
        for (int e = 0; e < kEach; ++e)
#pragma unroll
          for (unsigned j = 0; j < 8; ++j) w[e][j] = kept[place_kept(across, e, j)];
      } else {
        update_unit(s, p, element, before, true, w);
      }
#pragma unroll
      for (int e = 0; e < kEach; ++e) {
        std::uint32_t noise[4] = {};
        if (facts.stochastic) draw(work.draws, s.weight_site, p.at[e], noise);
        const uint2 codes =
            cuda::encode<Known::Nothing>(facts, work.weight, m_tables, w[e], step, most, noise);
        Raw out;
        out.w[0] = codes.x, out.w[1] = codes.y;
        store_words<2>(static_cast<std::uint8_t*>(s.weight) + p.at[e], out, p.n[e]);
      }
    }
  }
}

// ---- the launch ----------------------------------------------------------------------------

// Parameters of one form, whose rows have about one length.
struct Launch {
  std::optional<QuantSpec> specs[2], weight;
  bool vectors;
  std::uint32_t units_across;  // the most
  std::vector<RowSegment> segments;
};

template <int kEach, Known kM = Known::Nothing, Known kV = kM>
void run(RowWork& work, const Launch& l) {
  std::int64_t rows = 0;
  std::uint32_t most_across = 1;
  for (RowSegment s : l.segments) {
    s.first_unit = static_cast<std::uint32_t>(rows);
    s.units_across = static_cast<std::uint32_t>(ceil_div(s.cols, 256 * kEach));
    most_across = std::max(most_across, s.units_across);
    rows += s.rows;
    work.segments[work.count++] = s;
  }
  NIBBLE_CHECK(rows < std::int64_t{1} << 32, "adam", "got {} rows on a GPU, expected less", rows);
  work.rows = static_cast<std::uint32_t>(rows);
  const std::size_t tables = StateTables::bytes(work.codes[0]) + StateTables::bytes(work.codes[1]);
  const std::size_t row = std::size_t{most_across} * 256 * kEach * sizeof(float);
  const bool keeps = tables + row <= kSharedBytes;
  const std::size_t shared = tables + (keeps ? row : 0);
  const unsigned threads = std::min(most_across * kWarp, kMostThreads);
  const std::size_t resident =
      std::max<std::size_t>(1, std::min(kSharedBytes / std::max<std::size_t>(shared, 1),
                                        std::size_t{kThreadsOfMultiprocessor / threads}));
  const auto blocks = static_cast<unsigned>(
      std::min<std::int64_t>(rows, multiprocessors() * static_cast<std::int64_t>(resident)));
  constexpr bool kVectors = kM != Known::Nothing;
  const auto kernel = keeps ? rows_kernel<kEach, kM, kV, kVectors, true>
                            : rows_kernel<kEach, kM, kV, kVectors, false>;
  NIBBLE_CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                         static_cast<int>(kSharedBytes)));
  launch(kernel, blocks, threads, shared, work);
}

std::vector<Launch> launches_of(std::vector<StoredUpdate>& all) {
  std::vector<Launch> launches;
  for (StoredUpdate& u : all) {
    if (u.weight.numel() == 0 || !u.weight_spec) continue;
    RowSegment s{segment_of(u, false), u.weight_scales.data<float>()};
    s.units_across = static_cast<std::uint32_t>(ceil_div(s.cols, 256));
    const auto fits = [&](const Launch& l) {
      return l.segments.size() < kSegments && l.vectors == s.vectors &&
             l.units_across / 4 == s.units_across / 4 && l.weight == u.weight_spec &&
             l.specs[0] == u.states[0].spec && l.specs[1] == u.states[1].spec;
    };
    auto at = std::ranges::find_if(launches, fits);
    if (at == launches.end())
      at = launches.insert(
          at,
          Launch{
              {u.states[0].spec, u.states[1].spec}, u.weight_spec, s.vectors, s.units_across, {}});
    at->segments.push_back(s);
  }
  return launches;
}

}  // namespace

void adam_stored_rows(std::vector<StoredUpdate>& all, const AdamRule& rule, const StepScalars* step,
                      const Tensor& corrections, const RngKey& draws) {
  for (const Launch& l : launches_of(all)) {
    const auto work =
        std::make_unique<RowWork>(RowWork{.segments = {},
                                          .codes = {StateCode(l.specs[0]), StateCode(l.specs[1])},
                                          .weight = StateCode(l.weight),
                                          .rule = rule,
                                          .step = step,
                                          .corrections = corrections.data<float>(),
                                          .draws = draws,
                                          .count = 0,
                                          .rows = 0});
    const StateCode &m = work->codes[0], &v = work->codes[1];
    if (m.lanes > kWarp || v.lanes > kWarp)
      run<2>(*work, l);
    else if (l.vectors && m.is_plain_book(true) && v.is_plain_book(false))
      run<1, Known::SignedBook, Known::UnsignedBook>(*work, l);
    else if (l.vectors && m.is_plain_book(true) && v.is_stochastic_book())
      run<1, Known::SignedBook, Known::StochasticBook>(*work, l);
    else
      run<1>(*work, l);
  }
}

}  // namespace nibble::cuda
