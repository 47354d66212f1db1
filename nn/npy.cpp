#include "nn/npy.h"

#include <bit>

#include "tensor/atomic_file.h"
#include "tensor/ops.h"

namespace nibble {
namespace {

static_assert(std::endian::native == std::endian::little, "the data is written as it lies");

const char* descr_of(DType dtype) {
  switch (dtype) {
    case DType::F64: return "<f8";
    case DType::F32:
    case DType::BF16: return "<f4";
    case DType::I32: return "<i4";
    case DType::I8: return "|i1";
    case DType::U8:
    case DType::E4M3:
    case DType::E5M2:
    case DType::U4x2: return "|u1";
  }
  fail("npy", "no type for dtype {}", dtype);
}

// Two codes a byte, the low nibble first (quant/qtensor.h), to one a byte.
Tensor unpacked(const Tensor& packed) {
  Tensor codes = Tensor::empty(packed.shape(), DType::U8);
  const std::byte* from = packed.raw();
  auto* to = codes.data<std::uint8_t>();
  for (std::int64_t i = 0; i < codes.numel(); ++i)
    to[i] = static_cast<std::uint8_t>(static_cast<unsigned>(from[i / 2]) >> (i % 2 * 4) & 15u);
  return codes;
}

}  // namespace

std::string npy_header(DType dtype, const Shape& shape) {
  std::string extents;
  for (const std::int64_t d : shape) extents += fmt::format("{}{}", extents.empty() ? "" : ", ", d);
  if (shape.rank() == 1) extents += ',';
  std::string text = fmt::format("{{'descr': '{}', 'fortran_order': False, 'shape': ({}), }}",
                                 descr_of(dtype), extents);
  constexpr std::size_t kBefore = 10;  // magic, version and length
  text.append(63 - (kBefore + text.size()) % 64, ' ');
  text += '\n';
  std::string header("\x93NUMPY\x01\x00", 8);
  header += static_cast<char>(text.size() & 255);
  header += static_cast<char>(text.size() >> 8);
  return header + text;
}

void write_npy(const std::filesystem::path& path, const Tensor& tensor) {
  Tensor plain = ops::contiguous(tensor).to(kCpu);
  if (plain.dtype() == DType::BF16) plain = plain.to(DType::F32);
  if (plain.dtype() == DType::U4x2) plain = unpacked(plain);
  AtomicFile file(path, "npy");
  file.write(npy_header(plain.dtype(), plain.shape()));
  file.write(plain.raw(), static_cast<std::size_t>(plain.bytes()));
  file.commit();
}

}  // namespace nibble
