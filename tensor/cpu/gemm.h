// Single-threaded dense products on blocks: what the CPU kernels for matmul and attention share.
#pragma once

#include <cstdint>

namespace nibble::cpu {

// A read-only matrix with one unit stride.
template <class T>
struct MatrixView {
  const T* data;
  std::int64_t rows, cols;
  std::int64_t row_stride, col_stride;

  MatrixView block(std::int64_t row, std::int64_t col, std::int64_t r, std::int64_t c) const {
    return {data + row * row_stride + col * col_stride, r, c, row_stride, col_stride};
  }
  MatrixView t() const { return {data, cols, rows, col_stride, row_stride}; }
  bool row_major() const { return col_stride == 1 || cols == 1; }
  std::int64_t leading_stride() const { return row_major() ? row_stride : col_stride; }
};

// c (+)= a·b; c's rows lie c_stride apart. The order of each element's sum follows from the shapes
// alone. Backed by Eigen (gemm_eigen.cpp) or, with NIBBLE_BLAS, by one OpenBLAS thread
// (gemm_blas.cpp).
void gemm(float* c, std::int64_t c_stride, const MatrixView<float>& a, const MatrixView<float>& b,
          bool accumulate);
void gemm(double* c, std::int64_t c_stride, const MatrixView<double>& a,
          const MatrixView<double>& b, bool accumulate);

}  // namespace nibble::cpu
