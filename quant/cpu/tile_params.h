// TileParams: steps and zero points of one row of tiles, applied to pieces of a matrix row.
#pragma once

#include <vector>

#include "quant/codec.h"
#include "quant/spec.h"
#include "tensor/tensor.h"

namespace nibble::cpu {

class TileParams {
 public:
  // `zeros` is undefined for symmetric specs.
  TileParams(const QuantSpec& spec, std::int64_t rows, std::int64_t cols, const Tensor& steps,
             const Tensor& zeros);

  // Loads the tiles that cover matrix row `row`; a no-op when they are already loaded.
  void select(std::int64_t row);
  // y = x / step − zero for columns [col, col + n); y may be x.
  void divide(const float* x, std::int64_t col, std::int64_t n, float* y) const;
  // y = (q + zero) · step; y may be q.
  void rescale(const float* q, std::int64_t col, std::int64_t n, float* y) const;

 private:
  template <class F>
  void for_tiles(std::int64_t col, std::int64_t n, F&& fn) const;
  template <class F>
  void map(std::int64_t col, std::int64_t n, F&& fn) const;

  QuantSpec spec_;
  Tile tile_;
  std::int64_t cols_, tile_cols_;
  const float* steps_;
  const float* zeros_;
  bool expanded_;  // one entry a column instead of one a tile: narrow tiles vectorize this way
  std::int64_t loaded_ = -1;
  std::vector<float> factor_, step_, zero_;
};

}  // namespace nibble::cpu
