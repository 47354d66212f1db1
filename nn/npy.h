// NumPy's .npy, version 1.0 (numpy/lib/format.py): one array a file, for numpy.load.
#pragma once

#include <filesystem>
#include <string>

#include "tensor/tensor.h"

namespace nibble {

// Written aside and renamed, little-endian, in C order, with the tensor's shape; any device and
// strides. F64, F32, I32, I8 and U8 keep their dtype; BF16 is widened to f32; E4M3 and E5M2 are
// their codes as u1, U4x2 its codes as u1, one a byte. Throws Error("npy") when it cannot be
// written.
void write_npy(const std::filesystem::path& path, const Tensor& tensor);

// The bytes that write_npy puts before the data: magic, version, length and the dictionary, padded
// to a multiple of 64.
std::string npy_header(DType dtype, const Shape& shape);

}  // namespace nibble
