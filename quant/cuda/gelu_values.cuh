// tanh-GELU where kernels encode it without storing it: of a row's or a column's runs.
#pragma once

#include "quant/cuda/one_pass.cuh"
#include "tensor/cuda/gelu_table.cuh"

namespace nibble::cuda {

// Eight neighbours become what gelu_tanh (tensor/kernels.h) stores in their place.
struct GeluValues {
  template <class T>
  __device__ static void make(T (&x)[8]) {
    Vector<T, 8> y;
    if constexpr (sizeof(T) == 2) {
      float v[8];
      one_pass::widen(x, v);
#pragma unroll
      for (float& each : v) each = fast::gelu_tanh_bf16(each);
      y = stored<T>(v);
    } else {
      Vector<T, 8> in;
#pragma unroll
      for (int j = 0; j < 8; ++j) in[j] = x[j];
      y = apply_vector<8, T>(gelu_tanh_of{}, std::make_tuple(in));
    }
#pragma unroll
    for (int j = 0; j < 8; ++j) x[j] = y[j];
  }
};

}  // namespace nibble::cuda
