// Encodings of all weights in one launch. A scale needs its whole row, column or tile, and codes
// need the scale, so a weight is read twice: first its patches of 128 x 64 send the largest
// magnitudes of their rows and columns to the scratch, then they are encoded, in both orientations
// from one read. Blocks take patches off one list, in which a weight's encoding comes a little
// after its maxima: the second read is of the L2 cache, as far as the weight fits there. Reads 4
// (2) bytes an element from memory and writes one for each orientation; about 33 operations an
// element. 510 MB at GPT-2 124M, so 0.12 ms at 4.2 TB/s; takes 0.21, bound by latency: a third of
// the second reads miss the cache, and a patch is 32 elements a thread between barriers.
// `nibble bench kernels` measures it.
#include <algorithm>
#include <memory>

#include "optim/cuda/recode_patch.cuh"
#include "optim/kernels.h"

namespace nibble::cuda {
namespace {

using namespace recoding;

constexpr int kBlocks = 3;  // of a multiprocessor
// The table of a launch is a kernel parameter, so that nothing is uploaded and a captured graph
// holds it.
constexpr int kSegments = 200;

// Patches that follow each other on the list: upwards while maxima are found, downwards when they
// are encoded, since what was read last is the likeliest to be in the cache.
struct Run {
  std::uint32_t first, patch;
  std::uint16_t segment;
  bool encodes;
};

template <class Codes>
struct Work {
  Segment segments[kSegments];
  Run runs[3 * kSegments];
  RuleOf<Codes> rule;
  std::uint32_t runs_count, items;
  // [0]: the next item; then, by segment, how many patches have sent their maxima; then maxima.
  std::uint32_t* scratch;
};

// Persistent blocks. Whoever waits for maxima waits for items that were taken before its own, and
// the earliest of all unfinished items waits for nothing: blocks need not all run at once.
template <class T, class Codes, Quotients kQuotients>
__global__ void __launch_bounds__(kBlock, kBlocks)
    recode_kernel(const __grid_constant__ Work<Codes> work) {
  __shared__ Shared shared;
  std::uint32_t* const sent = work.scratch + 1;
  std::uint32_t* const maxima = sent + kSegments;
  const bool leads = threadIdx.x == 0;
  std::uint32_t next = leads ? atomicAdd(work.scratch, 1u) : 0u;
  for (std::uint32_t own = 0;;) {
    if (leads) shared.item = next;
    __syncthreads();
    const std::uint32_t item = shared.item;
    if (item >= work.items) return;
    if (leads) next = atomicAdd(work.scratch, 1u);  // comes while this one is worked on
    while (own + 1 < work.runs_count && item >= work.runs[own + 1].first) ++own;
    const Run& on = work.runs[own];
    const std::uint32_t index = item - on.first;
    const Segment& s = work.segments[on.segment];
    const Patch<T> p(s, on.encodes ? on.patch - index : on.patch + index);
    if (!on.encodes) {
      find_maxima(p, shared, maxima);
      __syncthreads();
      if (leads) __threadfence(), atomicAdd(sent + on.segment, 1u);
    } else {
      if (leads)
        while (load_acquired(sent + on.segment) < s.patches) __nanosleep(50);
      __syncthreads();
      encode<kQuotients>(p, work.rule, shared, maxima);
      __syncthreads();
    }
  }
}

// ---- the launch ----------------------------------------------------------------------------

// Encodings that one launch makes: of one dtype, by one rule.
struct Launch {
  Device device;
  DType dtype;
  QuantSpec rule;  // but for its tile
  std::vector<Segment> segments;
  std::int64_t maxima = 0;
};

QuantSpec rule_of(QuantSpec spec) {
  spec.tile = kPerTensor;
  spec.row_splits = spec.col_splits = 1;
  spec.calibration.history = 0;  // of weights no history is kept
  return spec;
}

Target target_of(Recoded& r, std::int64_t maxima) {
  const Tile own = r.codes.spec().resolve(r.codes.rows(), r.codes.cols());
  const Tile tile = r.transposed ? own.t() : own;
  const auto across = static_cast<std::uint32_t>(r.codes.scales().size(1));
  return {.codes = reinterpret_cast<std::uint8_t*>(r.codes.payload().raw()),
          .scales = r.codes.scales().data<float>(),
          .maxima = checked_extent(maxima),
          .tile_rows = static_cast<std::uint32_t>(tile.rows),
          .tile_cols = static_cast<std::uint32_t>(tile.cols),
          .row_stride = r.transposed ? 1u : across,
          .col_stride = r.transposed ? across : 1u,
          .transposed = r.transposed};
}

std::vector<Launch> launches_of(std::vector<Recoded>& all) {
  std::vector<Launch> launches;
  for (Recoded& r : all) {
    const QuantSpec rule = rule_of(r.codes.spec());
    const auto fits = [&](const Launch& l) { return l.dtype == r.x.dtype() && l.rule == rule; };
    // The last of its kind: those before it are full.
    auto at = std::find_if(launches.rbegin(), launches.rend(), fits);
    Launch* l = at == launches.rend() ? nullptr : &*at;
    const bool joins = l && l->segments.back().x == r.x.raw() && l->segments.back().targets == 1;
    if (!l || (!joins && l->segments.size() == kSegments))
      l = &launches.emplace_back(Launch{r.x.device(), r.x.dtype(), rule, {}});
    if (!joins) {
      const auto rows = checked_extent(r.x.size(0)), cols = checked_extent(r.x.size(1));
      const auto across = static_cast<std::uint32_t>(ceil_div(cols, kCols));
      l->segments.push_back({.x = r.x.raw(),
                             .rows = rows,
                             .cols = cols,
                             .across = across,
                             .patches = checked_extent(across * ceil_div(rows, kRows)),
                             .targets = 0,
                             .target = {}});
    }
    Segment& s = l->segments.back();
    s.target[s.targets++] = target_of(r, l->maxima);
    l->maxima += r.codes.scales().numel();
  }
  return launches;
}

// The list: a weight's encoding follows its maxima by about as many patches as are worked on at
// once, so that nobody waits long and the weight is still in the cache.
template <class Codes>
void plan(Work<Codes>& work, const std::vector<Segment>& segments) {
  const std::int64_t lag = std::int64_t{multiprocessors()} * kBlocks;
  std::int64_t total = 0, ends = 0, items = 0, surveyed = 0;
  for (const Segment& s : segments) total += s.patches;
  std::uint32_t patch = 0;
  std::uint16_t at = 0;  // of the maxima
  const auto add = [&](std::uint32_t first_patch, std::int64_t count, std::uint16_t segment,
                       bool encodes) {
    work.runs[work.runs_count++] = {checked_extent(items), first_patch, segment, encodes};
    items += count;
  };
  for (std::uint16_t i = 0; i < segments.size(); ++i) {
    work.segments[i] = segments[i];
    ends += segments[i].patches;
    for (const std::int64_t goal = std::min(ends + lag, total); surveyed < goal;) {
      const std::int64_t count =
          std::min<std::int64_t>(segments[at].patches - patch, goal - surveyed);
      add(patch, count, at, false);
      surveyed += count;
      patch += static_cast<std::uint32_t>(count);
      if (patch == segments[at].patches) ++at, patch = 0;
    }
    add(segments[i].patches - 1, segments[i].patches, i, true);
  }
  work.items = checked_extent(items);
}

template <class T, class Codes, Quotients kQuotients>
void run(const Launch& l) {
  const auto bytes = static_cast<std::size_t>(1 + kSegments + l.maxima) * sizeof(std::uint32_t);
  Tensor scratch = Tensor::empty({1 + kSegments + l.maxima}, DType::I32, l.device);
  NIBBLE_CUDA_CHECK(cudaMemsetAsync(scratch.raw(), 0, bytes, stream()));
  const auto work = std::make_unique<Work<Codes>>(
      Work<Codes>{.segments = {},
                  .runs = {},
                  .rule = RuleOf<Codes>(l.rule),
                  .runs_count = 0,
                  .items = 0,
                  .scratch = reinterpret_cast<std::uint32_t*>(scratch.raw())});
  static_assert(sizeof *work <= 32764);
  plan(*work, l.segments);
  launch(recode_kernel<T, Codes, kQuotients>, grid_for(work->items, 1, kBlocks), kBlock, 0, *work);
}

template <class T>
void run(const Launch& l) {
  const bool divides = l.rule.scaling == Scaling::Divide;
  using enum Quotients;
  if (l.rule.format.is_integer())
    divides ? run<T, IntCodes, Divide>(l) : run<T, IntCodes, Reciprocal>(l);
  else
    divides ? run<T, Float8Codes<4, 3>, Divide>(l) : run<T, Float8Codes<4, 3>, Reciprocal>(l);
}

}  // namespace

void recode(std::vector<Recoded>& all) {
  for (const Launch& l : launches_of(all))
    NIBBLE_CUDA_FLOAT_SWITCH(l.dtype, "recode", T, run<T>(l));
}

}  // namespace nibble::cuda
