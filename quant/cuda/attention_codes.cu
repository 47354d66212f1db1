// quant_attention: attention's forward kernel, whose blocks also encode the 128 rows of a head that
// they hold in shared memory when they store them. A column's scale is the block's own; for a
// row's, of 128 columns, two blocks of neighbouring heads form a cluster and tell each other the
// maxima of their rows. Adds to the forward 2 bytes an element written and some 20 operations an
// element (40 us of an H200 for [32768, 768]), where a pass of its own moves 4 bytes (41 to 49).
// Measured: tests/bench/results/2026-11-29-attention.md.
#include "quant/attention_codes.h"

#include "quant/cuda/one_pass.cuh"
#include "tensor/cuda/attention_wgmma_forward.cuh"

namespace nibble::cuda {
namespace {

constexpr int kTileRows = 128, kWarps = kTileRows / 16, kConsumersName = 3;

struct Encodings {
  std::uint8_t *row_codes, *column_codes;  // [M, C], [C, M]; column_codes may be null
  float *row_steps, *column_steps;
  one_pass::Rule row_rule, column_rule;
  float row_high, column_high;
  std::int64_t rows;  // M
  int cols, queries;
};

// The scale of a run of this largest magnitude (bits of a float), and what its values are
// multiplied by. Codes of other runs than those that are `usual` need to be cut at the largest.
struct Scale {
  float step, factor;
  bool usual;

  __device__ Scale(const one_pass::Rule& rule, std::uint32_t most, float high)
      : step(rule.of_largest(most)), factor(codec::multiplier_of(step)) {
    usual = codec::mul(std::bit_cast<float>(most), factor) < high + 0.5f;
  }
};
// A code in the low byte: codec::encode_integer for quotients that are not below the lowest code.
// fminf makes the largest of NaN, as there. `bits`: of a float.
template <bool kUsual>
__device__ std::uint32_t code_of(std::uint32_t bits, float factor, float high) {
  const float y = codec::mul(std::bit_cast<float>(bits), factor);
  return std::bit_cast<std::uint32_t>(codec::add(kUsual ? y : fminf(y, high), codec::kRoundMagic));
}
// Codes of the eight bf16 of four words.
template <bool kUsual>
__device__ uint2 eight_codes(uint4 x, float factor, float high) {
  const auto four = [&](std::uint32_t a, std::uint32_t b) {
    return one_pass::low_bytes(
        code_of<kUsual>(a << 16, factor, high), code_of<kUsual>(a & 0xffff0000u, factor, high),
        code_of<kUsual>(b << 16, factor, high), code_of<kUsual>(b & 0xffff0000u, factor, high));
  };
  return {four(x.x, x.y), four(x.z, x.w)};
}
__device__ uint4 magnitudes(uint4 x) {
  constexpr std::uint32_t kBoth = 0x7fff7fff;
  return {x.x & kBoth, x.y & kBoth, x.z & kBoth, x.w & kBoth};
}
__device__ uint4 larger(uint4 a, uint4 b) {
  return {__vmaxu2(a.x, b.x), __vmaxu2(a.y, b.y), __vmaxu2(a.z, b.z), __vmaxu2(a.w, b.w)};
}
__device__ std::uint32_t word_of(uint4 x, int i) {
  return i == 0 ? x.x : i == 1 ? x.y : i == 2 ? x.z : x.w;
}
__device__ void store_remote(std::uint32_t address, std::uint32_t x) {
  asm volatile("st.shared::cluster.u32 [%0], %1;" ::"r"(address), "r"(x) : "memory");
}

struct Encode {
  static constexpr int kHeads = 2, kShared = 2 * kTileRows * 4;
  using Place = NoEpilogue::Place;
  Encodings e;

  template <class C>
  __device__ void finish(const Place& place, const char* rows, char* scratch) const {
    static_assert(C::kRows == kTileRows && C::kWidth * kHeads == 128);
    auto* const most = reinterpret_cast<std::uint32_t*>(scratch);
    auto* const others = most + kTileRows;  // of the neighbour's head
    const std::int64_t first_row = std::int64_t{place.b} * e.queries + place.t0;
    const Rows<C> own(rows, place.warp);
    hopper::cluster_wait();  // nobody writes into a block that has not begun
    own.survey([&](int row, std::uint32_t largest) {
      most[row] = largest;
      store_remote(hopper::address_in(hopper::cluster_rank() ^ 1, shared_address(others + row)),
                   largest);
    });
    hopper::cluster_arrive();
    hopper::sync_threads(kConsumersName, C::kGroups * kGroupThreads);
    if (e.column_codes) encode_columns<C>(place, rows, first_row);
    hopper::cluster_wait();
    encode_rows<C>(place, own, most, others, first_row);
  }

 private:
  // Eight columns of a row as store_rows staged it.
  template <class C>
  __device__ static uint4 eight(const char* rows, int row, int chunk) {
    return *reinterpret_cast<const uint4*>(rows + row * C::kWidth * 2 + ((chunk ^ (row & 7)) << 4));
  }
  // A warp's 16 rows; a lane has 16 neighbouring columns of kPasses of them.
  template <class C>
  struct Rows {
    static constexpr int kSegments = C::kWidth / 16, kAtOnce = 32 / kSegments;
    static constexpr int kPasses = 16 / kAtOnce;
    uint4 x[kPasses][2];
    int first, segment;

    __device__ Rows(const char* rows, int warp) {
      const int lane = static_cast<int>(threadIdx.x % kWarp);
      first = warp * 16 + lane / kSegments, segment = lane % kSegments;
#pragma unroll
      for (int i = 0; i < kPasses; ++i)
#pragma unroll
        for (int half = 0; half < 2; ++half)
          x[i][half] = eight<C>(rows, first + i * kAtOnce, 2 * segment + half);
    }
    // f(row, bits of its largest magnitude), once a row.
    template <class F>
    __device__ void survey(F f) const {
#pragma unroll
      for (int i = 0; i < kPasses; ++i) {
        const uint4 m = larger(magnitudes(x[i][0]), magnitudes(x[i][1]));
        std::uint32_t pair = __vmaxu2(__vmaxu2(m.x, m.y), __vmaxu2(m.z, m.w));
#pragma unroll
        for (unsigned lane = 1; lane < kSegments; lane *= 2)
          pair = __vmaxu2(pair, __shfl_xor_sync(kFullMask, pair, lane));
        if (segment == 0) f(first + i * kAtOnce, ::max(pair & 0xffff0000u, pair << 16));
      }
    }
  };

  template <class C>
  __device__ void encode_rows(const Place& place, const Rows<C>& own, const std::uint32_t* most,
                              const std::uint32_t* others, std::int64_t first_row) const {
    const int lane = static_cast<int>(threadIdx.x % kWarp), row = place.warp * 16 + lane % 16;
    const Scale scale(e.row_rule, ::max(most[row], others[row]), e.row_high);
    const int column = place.h * C::kWidth;
    if (lane < 16 && column % 128 == 0)
      e.row_steps[(first_row + row) * (e.cols / 128) + column / 128] = scale.step;
    std::uint8_t* const to =
        e.row_codes + (first_row + own.first) * e.cols + column + own.segment * 16;
    const auto encode = [&]<bool kUsual>() {
#pragma unroll
      for (int i = 0; i < Rows<C>::kPasses; ++i) {
        const float factor =
            __shfl_sync(kFullMask, scale.factor, i * Rows<C>::kAtOnce + lane / Rows<C>::kSegments);
        const uint2 a = eight_codes<kUsual>(own.x[i][0], factor, e.row_high),
                    b = eight_codes<kUsual>(own.x[i][1], factor, e.row_high);
        *reinterpret_cast<uint4*>(to + std::int64_t{i * Rows<C>::kAtOnce} * e.cols) = {a.x, a.y,
                                                                                       b.x, b.y};
      }
    };
    if (__all_sync(kFullMask, scale.usual))
      encode.template operator()<true>();
    else
      encode.template operator()<false>();
  }

  // A warp takes eight columns, a lane four rows of them, in an order that hits distinct banks.
  template <class C>
  __device__ void encode_columns(const Place& place, const char* rows,
                                 std::int64_t first_row) const {
    const int lane = static_cast<int>(threadIdx.x % kWarp);
    const std::int64_t runs = e.rows / kTileRows, run = first_row / kTileRows;
#pragma unroll 1
    for (int chunk = place.warp; chunk < C::kWidth / 8; chunk += kWarps) {
      uint4 x[4];
      std::uint32_t into[4];  // where a row's code goes in the word of its four
      uint4 m{};
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        const int nth = (k + lane / 2) & 3;
        into[k] = 0x3210u ^ static_cast<std::uint32_t>(4 ^ nth) << 4 * nth;
        x[k] = eight<C>(rows, 4 * lane + nth, chunk);
        m = larger(m, magnitudes(x[k]));
      }
      // Each exchange halves what a lane still has to know: in the end one of the eight columns.
      const bool odd = lane & 1, second = lane & 2;
      const std::uint32_t a =
          __vmaxu2(odd ? m.z : m.x, __shfl_xor_sync(kFullMask, odd ? m.x : m.z, 1));
      const std::uint32_t b =
          __vmaxu2(odd ? m.w : m.y, __shfl_xor_sync(kFullMask, odd ? m.y : m.w, 1));
      std::uint32_t pair = __vmaxu2(second ? b : a, __shfl_xor_sync(kFullMask, second ? a : b, 2));
#pragma unroll
      for (unsigned other = 4; other < kWarp; other *= 2)
        pair = __vmaxu2(pair, __shfl_xor_sync(kFullMask, pair, other));
      const auto reversed = [](int three_bits) {
        return (three_bits & 1) << 2 | (three_bits & 2) | (three_bits & 4) >> 2;
      };
      const int own = reversed(lane % 8);
      const Scale scale(e.column_rule, own % 2 ? pair & 0xffff0000u : pair << 16, e.column_high);
      const std::int64_t column = place.h * C::kWidth + chunk * 8;
      if (lane < 8) e.column_steps[(column + own) * runs + run] = scale.step;
      std::uint8_t* const to = e.column_codes + column * e.rows + first_row + 4 * lane;
      const auto encode = [&]<bool kUsual>() {
#pragma unroll
        for (int c = 0; c < 8; ++c) {
          const float factor = __shfl_sync(kFullMask, scale.factor, reversed(c));
          std::uint32_t word = 0;
#pragma unroll
          for (int k = 0; k < 4; ++k) {
            const std::uint32_t two = word_of(x[k], c / 2);
            word = __byte_perm(
                word, code_of<kUsual>(c % 2 ? two & 0xffff0000u : two << 16, factor, e.column_high),
                into[k]);
          }
          *reinterpret_cast<std::uint32_t*>(to + c * e.rows) = word;
        }
      };
      if (__all_sync(kFullMask, scale.usual))
        encode.template operator()<true>();
      else
        encode.template operator()<false>();
    }
  }
};

template <class T>
T* codes_of(Tensor& x) {
  return x.defined() ? reinterpret_cast<T*>(x.raw()) : nullptr;
}

}  // namespace

void quant_attention(Tensor& out, Tensor& lse, Tensor& row_codes, Tensor& row_scales,
                     Tensor& column_codes, Tensor& column_scales, const Tensor& q, const Tensor& k,
                     const Tensor& v, const AttentionOptions& options, const QuantSpec& by_row,
                     const QuantSpec& by_column) {
  const Tensor rq = readable_heads(q), rk = readable_heads(k), rv = readable_heads(v);
  const ForwardArguments<bfloat16> a = forward_arguments(out, lse, rq, rk, rv, options);
  const Encodings e{.row_codes = codes_of<std::uint8_t>(row_codes),
                    .column_codes = codes_of<std::uint8_t>(column_codes),
                    .row_steps = row_scales.data<float>(),
                    .column_steps = codes_of<float>(column_scales),
                    .row_rule = one_pass::Rule(by_row),
                    .column_rule = one_pass::Rule(by_column),
                    .row_high = static_cast<float>(by_row.format.qmax()),
                    .column_high = static_cast<float>(by_column.format.qmax()),
                    .rows = out.size(0) * out.size(1),
                    .cols = static_cast<int>(out.size(2) * out.size(3)),
                    .queries = a.shape.queries};
  launch_forward<ForwardTiling64>(a, Encode{e});
}

}  // namespace nibble::cuda
