#include "quant/cpu/rows.h"
#include "quant/kernels.h"

namespace nibble::cpu {

void quant_transpose(Tensor& y, const Tensor& x) {
  // Square blocks: both the rows read and the rows written stay in L1.
  constexpr std::int64_t kBlock = 64;
  const std::int64_t rows = x.size(0), cols = x.size(1);
  const auto* in = reinterpret_cast<const std::uint8_t*>(x.raw());
  auto* out = reinterpret_cast<std::uint8_t*>(y.raw());
  const std::int64_t bands = (cols + kBlock - 1) / kBlock;
  const std::int64_t grain =
      std::max<std::int64_t>(1, kChunkElements / (kBlock * std::max<std::int64_t>(rows, 1)));
  parallel_for(bands, grain, [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t c0 = first * kBlock; c0 < std::min(last * kBlock, cols); c0 += kBlock) {
      const std::int64_t c1 = std::min(c0 + kBlock, cols);
      for (std::int64_t r0 = 0; r0 < rows; r0 += kBlock) {
        const std::int64_t r1 = std::min(r0 + kBlock, rows);
        for (std::int64_t c = c0; c < c1; ++c)
          for (std::int64_t r = r0; r < r1; ++r) out[c * rows + r] = in[r * cols + c];
      }
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
