#include <cblas.h>

#include "tensor/cpu/gemm.h"

namespace nibble::cpu {
namespace {

void gemm_call(float* c, blasint ldc, const MatrixView<float>& a, const MatrixView<float>& b,
               CBLAS_TRANSPOSE ta, CBLAS_TRANSPOSE tb, float beta) {
  cblas_sgemm(CblasRowMajor, ta, tb, static_cast<blasint>(a.rows), static_cast<blasint>(b.cols),
              static_cast<blasint>(a.cols), 1.0f, a.data, static_cast<blasint>(a.leading_stride()),
              b.data, static_cast<blasint>(b.leading_stride()), beta, c, ldc);
}
void gemm_call(double* c, blasint ldc, const MatrixView<double>& a, const MatrixView<double>& b,
               CBLAS_TRANSPOSE ta, CBLAS_TRANSPOSE tb, double beta) {
  cblas_dgemm(CblasRowMajor, ta, tb, static_cast<blasint>(a.rows), static_cast<blasint>(b.cols),
              static_cast<blasint>(a.cols), 1.0, a.data, static_cast<blasint>(a.leading_stride()),
              b.data, static_cast<blasint>(b.leading_stride()), beta, c, ldc);
}

// BLAS checks leading strides even where no second row or column makes use of them.
template <class T>
MatrixView<T> with_valid_stride(MatrixView<T> x) {
  if (x.row_major()) {
    if (x.row_stride < x.cols) x.row_stride = x.cols;
  } else if (x.col_stride < x.rows) {
    x.col_stride = x.rows;
  }
  return x;
}

template <class T>
void multiply(T* c, std::int64_t c_stride, const MatrixView<T>& a, const MatrixView<T>& b,
              bool accumulate) {
  // Chunks already run on every thread, and the bits must not depend on how many there are.
  static const bool single = [] {
    openblas_set_num_threads(1);
    return true;
  }();
  static_cast<void>(single);
  if (a.cols == 0) {  // BLAS may leave c untouched then
    for (std::int64_t i = 0; !accumulate && i < a.rows; ++i)
      for (std::int64_t j = 0; j < b.cols; ++j) c[i * c_stride + j] = T(0);
    return;
  }
  gemm_call(c, static_cast<blasint>(c_stride), with_valid_stride(a), with_valid_stride(b),
            a.row_major() ? CblasNoTrans : CblasTrans, b.row_major() ? CblasNoTrans : CblasTrans,
            accumulate ? T(1) : T(0));
}

}  // namespace

void gemm(float* c, std::int64_t c_stride, const MatrixView<float>& a, const MatrixView<float>& b,
          bool accumulate) {
  multiply(c, c_stride, a, b, accumulate);
}
void gemm(double* c, std::int64_t c_stride, const MatrixView<double>& a,
          const MatrixView<double>& b, bool accumulate) {
  multiply(c, c_stride, a, b, accumulate);
}

}  // namespace nibble::cpu
