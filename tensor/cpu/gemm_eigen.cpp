// Packed panels of a matmul tile stay below this: on the stack they cost no page faults.
#define EIGEN_STACK_ALLOCATION_LIMIT (1024 * 1024)
#define EIGEN_DONT_PARALLELIZE
#define EIGEN_MPL2_ONLY
#include <Eigen/Core>

#include "tensor/cpu/gemm.h"

namespace nibble::cpu {
namespace {

using Eigen::ColMajor, Eigen::Dynamic, Eigen::OuterStride, Eigen::RowMajor;

template <class T, int Order>
Eigen::Map<const Eigen::Matrix<T, Dynamic, Dynamic, Order>, 0, OuterStride<>> map(
    const MatrixView<T>& x) {
  return {x.data, x.rows, x.cols, OuterStride<>(x.leading_stride())};
}

template <class T>
void multiply(T* c, std::int64_t c_stride, const MatrixView<T>& a, const MatrixView<T>& b,
              bool accumulate) {
  // Eigen blocks K by the size of the L1 cache: pinned, or bits would differ between processors.
  static const bool pinned = [] {
    Eigen::setCpuCacheSizes(32 * 1024, 1024 * 1024, 4 * 1024 * 1024);
    return true;
  }();
  static_cast<void>(pinned);
  Eigen::Map<Eigen::Matrix<T, Dynamic, Dynamic, RowMajor>, 0, OuterStride<>> y(
      c, a.rows, b.cols, OuterStride<>(c_stride));
  const auto run = [&](const auto& lhs, const auto& rhs) {
    if (accumulate)
      y.noalias() += lhs * rhs;
    else
      y.noalias() = lhs * rhs;
  };
  if (a.row_major() && b.row_major())
    run(map<T, RowMajor>(a), map<T, RowMajor>(b));
  else if (a.row_major())
    run(map<T, RowMajor>(a), map<T, ColMajor>(b));
  else if (b.row_major())
    run(map<T, ColMajor>(a), map<T, RowMajor>(b));
  else
    run(map<T, ColMajor>(a), map<T, ColMajor>(b));
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
