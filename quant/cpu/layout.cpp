#include <bit>
#include <cstring>

#include "quant/cpu/rows.h"
#include "quant/kernels.h"

namespace nibble::cpu {

namespace {

constexpr std::int64_t kBlock = 64;  // a block and its transpose fill 8 KiB of L1

// The 8 x 8 bytes of rows[0 … 8), one row a word, transposed by swapping ever smaller squares.
void transpose_words(std::uint64_t* rows) {
  const auto swap = [rows](int distance, int shift, std::uint64_t mask) {
    for (int i = 0; i < 8; ++i) {
      if (i & distance) continue;
      const std::uint64_t t = ((rows[i] >> shift) ^ rows[i + distance]) & mask;
      rows[i] ^= t << shift;
      rows[i + distance] ^= t;
    }
  };
  swap(4, 32, 0x00000000ffffffffull);
  swap(2, 16, 0x0000ffff0000ffffull);
  swap(1, 8, 0x00ff00ff00ff00ffull);
}

// One block of n x m bytes; whole lines of `out` are written at a time through a copy in L1.
void transpose_block(const std::uint8_t* in, std::int64_t in_stride, std::int64_t n, std::int64_t m,
                     std::uint8_t* out, std::int64_t out_stride) {
  static_assert(std::endian::native == std::endian::little);
  alignas(64) std::uint8_t turned[kBlock][kBlock];
  for (std::int64_t r = 0; r < n; r += 8)
    for (std::int64_t c = 0; c < m; c += 8) {
      std::uint64_t words[8] = {};
      const std::int64_t height = std::min<std::int64_t>(8, n - r);
      const auto width = static_cast<std::size_t>(std::min<std::int64_t>(8, m - c));
      if (width == 8)
        for (std::int64_t i = 0; i < height; ++i)
          std::memcpy(words + i, in + (r + i) * in_stride + c, 8);
      else
        for (std::int64_t i = 0; i < height; ++i)
          std::memcpy(words + i, in + (r + i) * in_stride + c, width);
      transpose_words(words);
      for (int i = 0; i < 8; ++i) std::memcpy(&turned[c + i][r], words + i, 8);
    }
  for (std::int64_t c = 0; c < m; ++c)
    std::memcpy(out + c * out_stride, turned[c], static_cast<std::size_t>(n));
}

}  // namespace

void quant_transpose(Tensor& y, const Tensor& x) {
  const std::int64_t rows = x.size(0), cols = x.size(1);
  const auto* in = reinterpret_cast<const std::uint8_t*>(x.raw());
  auto* out = reinterpret_cast<std::uint8_t*>(y.raw());
  const std::int64_t across = (cols + kBlock - 1) / kBlock;
  const std::int64_t blocks = across * ((rows + kBlock - 1) / kBlock);
  constexpr std::int64_t kGrain = kChunkElements / (kBlock * kBlock);
  parallel_for(blocks, kGrain, [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t b = first; b < last; ++b) {
      const std::int64_t r = b / across * kBlock, c = b % across * kBlock;
      transpose_block(in + r * cols + c, cols, std::min(kBlock, rows - r),
                      std::min(kBlock, cols - c), out + c * rows + r, rows);
    }
  });
}

void quant_pack(Tensor& packed, const Tensor& codes) {
  const std::int64_t rows = codes.size(0), cols = codes.size(1), stride = (cols + 1) / 2;
  const auto* in = reinterpret_cast<const std::uint8_t*>(codes.raw());
  auto* out = reinterpret_cast<std::uint8_t*>(packed.raw());
  for_row_chunks(rows, cols, [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t r = first; r < last; ++r) {
      const std::uint8_t* from = in + r * cols;
      std::uint8_t* to = out + r * stride;
      for (std::int64_t j = 0; j < cols / 2; ++j)
        to[j] = static_cast<std::uint8_t>((from[2 * j] & 0xfu) | (from[2 * j + 1] << 4));
      if (cols % 2 != 0) to[cols / 2] = from[cols - 1] & 0xfu;
    }
  });
}

void quant_unpack(Tensor& codes, const Tensor& packed) {
  const std::int64_t rows = codes.size(0), cols = codes.size(1), stride = (cols + 1) / 2;
  // Xor and subtract of the sign bit's weight extends the sign; 0 leaves codes as they are.
  const unsigned sign = codes.dtype() == DType::I8 ? 8u : 0u;
  const auto* in = reinterpret_cast<const std::uint8_t*>(packed.raw());
  auto* out = reinterpret_cast<std::uint8_t*>(codes.raw());
  const auto wide = [sign](unsigned nibble) {
    return static_cast<std::uint8_t>((nibble ^ sign) - sign);
  };
  for_row_chunks(rows, cols, [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t r = first; r < last; ++r) {
      const std::uint8_t* from = in + r * stride;
      std::uint8_t* to = out + r * cols;
      for (std::int64_t j = 0; j < cols / 2; ++j) {
        to[2 * j] = wide(from[j] & 0xfu);
        to[2 * j + 1] = wide(from[j] >> 4u);
      }
      if (cols % 2 != 0) to[cols - 1] = wide(from[cols / 2] & 0xfu);
    }
  });
}

}  // namespace nibble::cpu
