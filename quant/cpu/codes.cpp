#include "quant/cpu/coder.h"
#include "quant/cpu/draws.h"
#include "quant/cpu/rows.h"
#include "quant/cpu/tile_params.h"
#include "quant/kernels.h"

namespace nibble::cpu {
namespace {

// Calls fn(row, col, n) for pieces of the rows [first, last).
template <class F>
void for_pieces(std::int64_t first, std::int64_t last, std::int64_t cols, TileParams& params,
                F&& fn) {
  for (std::int64_t row = first; row < last; ++row) {
    params.select(row);
    for (std::int64_t col = 0; col < cols; col += kPiece)
      fn(row, col, std::min(kPiece, cols - col));
  }
}

std::uint8_t* bytes(Tensor& codes) { return reinterpret_cast<std::uint8_t*>(codes.raw()); }

}  // namespace

void quant_encode(Tensor& codes, const Tensor& x, const Tensor& steps, const Tensor& zeros,
                  const QuantSpec& spec, const RngKey& key) {
  const std::int64_t rows = x.size(0), cols = x.size(1);
  const Coder coder(spec);
  const RowReader reader(x);
  const TileParams unloaded(spec, rows, cols, steps, zeros);
  std::uint8_t* out = bytes(codes);
  for_row_chunks(rows, cols, [&](std::int64_t first, std::int64_t last) {
    TileParams params = unloaded;
    alignas(64) float y[kPiece];
    alignas(64) std::uint16_t noise[kPiece + kDrawSlack];
    for_pieces(first, last, cols, params, [&](std::int64_t row, std::int64_t col, std::int64_t n) {
      const std::int64_t at = row * cols + col;
      params.divide(reader.read(row, col, n, y), col, n, y);
      const std::uint16_t* draws =
          coder.stochastic() ? fill_draws(key, static_cast<std::uint64_t>(at), n, noise) : nullptr;
      coder.encode(y, n, draws, out + at);
    });
  });
}

void quant_decode(Tensor& y, const Tensor& codes, const Tensor& steps, const Tensor& zeros,
                  const QuantSpec& spec) {
  const std::int64_t rows = y.size(0), cols = y.size(1);
  const Coder coder(spec);
  const RowWriter writer(y);
  const TileParams unloaded(spec, rows, cols, steps, zeros);
  const auto* in = reinterpret_cast<const std::uint8_t*>(codes.raw());
  for_row_chunks(rows, cols, [&](std::int64_t first, std::int64_t last) {
    TileParams params = unloaded;
    alignas(64) float buffer[kPiece];
    for_pieces(first, last, cols, params, [&](std::int64_t row, std::int64_t col, std::int64_t n) {
      float* values = writer.target(row, col, buffer);
      coder.decode(in + row * cols + col, n, values);
      params.rescale(values, col, n, values);
      writer.write(row, col, n, values);
    });
  });
}

void quant_roundtrip(Tensor& y, const Tensor& x, const Tensor& steps, const Tensor& zeros,
                     const QuantSpec& spec, const RngKey& key) {
  const std::int64_t rows = x.size(0), cols = x.size(1);
  const Coder coder(spec);
  const RowReader reader(x);
  const RowWriter writer(y);
  const TileParams unloaded(spec, rows, cols, steps, zeros);
  for_row_chunks(rows, cols, [&](std::int64_t first, std::int64_t last) {
    TileParams params = unloaded;
    alignas(64) float buffer[kPiece];
    alignas(64) std::uint16_t noise[kPiece + kDrawSlack];
    for_pieces(first, last, cols, params, [&](std::int64_t row, std::int64_t col, std::int64_t n) {
      const auto at = static_cast<std::uint64_t>(row * cols + col);
      params.divide(reader.read(row, col, n, buffer), col, n, buffer);
      const std::uint16_t* draws = coder.stochastic() ? fill_draws(key, at, n, noise) : nullptr;
      coder.round(buffer, n, draws, buffer);
      float* values = writer.target(row, col, buffer);
      params.rescale(buffer, col, n, values);
      writer.write(row, col, n, values);
    });
  });
}

}  // namespace nibble::cpu
