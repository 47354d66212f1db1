// The operand of a linear layer in whichever forms a family keeps, and the launchers that fill it.
#pragma once

#include "encode.cuh"
#include "ops.h"
#include "profile.h"

namespace nibble::spike {

enum class Family { kBf16, kRow, kTile, kGroup };
const char* to_string(Family family);

/// Absmax words of all operands of a step, zeroed by one memset.
class AbsmaxArena {
 public:
  explicit AbsmaxArena(std::size_t words) : words_(words) {}
  std::uint32_t* take(std::size_t n);
  void zero_async() const;

 private:
  Buffer<std::uint32_t> words_;
  std::size_t used_ = 0;
};

/// A [rows, cols] matrix: bf16, or int8 codes in both orientations with their scales.
struct Operand {
  Operand() = default;
  Operand(int rows, int cols, Family family, bool dense, AbsmaxArena& arena);

  int rows = 0, cols = 0;
  Family family = Family::kBf16;
  Buffer<bf16> dense;
  Buffer<std::int8_t> codes, codes_t;  // [rows, cols] and [cols, rows]
  Buffer<float> scales, scales_t;
  std::uint32_t *row_absmax = nullptr, *col_absmax = nullptr;

  int row_tiles() const { return ceil_div(rows, kTile); }
  int col_tiles() const { return ceil_div(cols, kTile); }
  ScaleView view() const;    // of codes
  ScaleView view_t() const;  // of codes_t
};

/// Runs producers into operands and books their time and least bytes.
class Encoder {
 public:
  explicit Encoder(int max_cols);

  /// Runs producer `p` into `out`: bf16; bf16 with absmaxes and then the pair pass (row family;
  /// the pass is left to the consumer if `defer_pair`); or codes (tile families), in one
  /// pass where P allows it.
  /// `col_sums` [P::kColTerms, cols] may be null when the producer has none.
  template <class P>
  void produce(Profiler& prof, const char* name, P p, Operand& out, float* col_sums, NoiseKey key,
               bool defer_pair = false);
  /// The row family's second pass over out.dense or `in`.
  template <bool kGradient>
  void pair_pass(Profiler& prof, const char* name, const bf16* in, Operand& out, NoiseKey key);
  /// A tensor produced elsewhere: nothing for bf16 (column sums of gradients apart), absmax and
  /// pair pass for the row family, one encoding pass for the tile families.
  template <bool kGradient>
  void encode(Profiler& prof, const char* name, const bf16* in, Operand& out, float* col_sums,
              NoiseKey key, const char* encode_class = "quantize");

 private:
  template <class P, bool kStore, bool kAbsmax>
  int rows_kernel(P p, Operand& out);
  template <class P, Scales kScales>
  void tile_kernel(P p, Operand& out, NoiseKey key);
  template <class P>
  void tile_family(P p, Operand& out, NoiseKey key);
  void reduce(Profiler& prof, float* out, int terms, int parts, int cols);
  Buffer<float> partials_;
};

}  // namespace nibble::spike
