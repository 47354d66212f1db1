// Small kernels around the products: scaling of int32 results, reductions, data, error norms.
#pragma once

#include "device.h"
#include "noise.cuh"

namespace nibble::spike {

/// Scale of element (r, c) of a code array: data[(r / rows) * row_stride + (c / cols) *
/// col_stride].
struct ScaleView {
  const float* data = nullptr;
  int rows = 1, cols = 1;
  int row_stride = 0, col_stride = 0;
};

/// out[m, n] = bf16(acc · row[m] · col[n] + bias[n] + add[m, n]); bias and add may be null.
void scale_output(bf16* out, const std::int32_t* acc, const float* row, const float* col,
                  const bf16* bias, const bf16* add, int m, int n);
/// out[m, n] = T(value + bias[n] + add[m, n]); bias and add may be null, out may be value.
template <class T>
void finish_output(T* out, const double* value, const T* bias, const T* add, int m, int n);
/// out[t][c] = sum over `parts` of partials[t][part][c], in a fixed order.
void reduce_partials(float* out, const float* partials, int terms, int parts, int cols);
void dequantize(double* out, const std::int8_t* codes, ScaleView scales, int rows, int cols);

/// out[r] = scale of element (r, 0): a row vector standing in for scales that vary along a row.
void gather_row_scales(float* out, ScaleView scales, int rows);

struct Distribution {
  float mean = 0, deviation = 1;
  int outlier_every = 0;  // every so many columns, multiplied by outlier_gain
  float outlier_gain = 1;
  float row_sigma = 0;  // log-normal spread of the rows
};
void fill_normal(bf16* out, int rows, int cols, Distribution d, std::uint32_t seed);
template <class From>
void to_double(double* out, const From* in, std::size_t n);

/// Sum of (value - reference)² and of reference².
struct ErrorNorm {
  double error = 0, reference = 0;
  double relative() const;
  double sqnr_db() const;
};
template <class T>
ErrorNorm error_norm(const T* value, const double* reference, std::size_t n);

/// How many of `samples` pseudo-random elements of acc[m, n] = a[m, k] · b[n, k]ᵀ differ from a
/// plain loop in 64-bit integers.
int count_wrong_products(const std::int32_t* acc, const std::int8_t* a, const std::int8_t* b, int m,
                         int n, int k, int samples, std::uint32_t seed);

}  // namespace nibble::spike
