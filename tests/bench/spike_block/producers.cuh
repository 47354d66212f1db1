// What computes the values: one functor a producer, used by both kernels of encode.cuh. A thread
// owns eight neighbouring columns of a row. A functor has
//   Raw            eight columns as loaded,
//   Columns        per-column parameters of the thread's eight columns,
//   Row, kRowSums  per-row parameters; with kRowSums they need two sums over the whole row,
//   Late           what only the result needs, loaded after the row sums (registers are short),
//   kColTerms      how many column sums it delivers (bias gradient, dgamma, dbeta),
//   kReads         bf16 tensors it reads,
//   kGradient      its result is a gradient: codes are rounded stochastically,
//   kTwoPasses     encoded by a second pass: somebody needs the bf16 result anyway, and one pass
//   with
//                  row sums and three inputs ran out of registers (191 against 118 us at C = 768).
#pragma once

#include "device.h"

namespace nibble::spike {

struct Empty {};

__device__ inline uint4 load8(const bf16* p) { return *reinterpret_cast<const uint4*>(p); }

__device__ inline void unpack8(uint4 v, float (&out)[8]) {
  const std::uint32_t words[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    out[2 * i] = __uint_as_float(words[i] << 16);
    out[2 * i + 1] = __uint_as_float(words[i] & 0xffff0000u);
  }
}

__device__ inline uint4 pack8(const float (&x)[8]) {
  std::uint32_t w[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const __nv_bfloat162 pair = __floats2bfloat162_rn(x[2 * i], x[2 * i + 1]);
    w[i] = *reinterpret_cast<const std::uint32_t*>(&pair);
  }
  return {w[0], w[1], w[2], w[3]};
}

/// Shared by producers without row statistics.
struct RowFree {
  static constexpr bool kRowSums = false;
  using Columns = Empty;
  using Row = Empty;
  using Late = Empty;
  __device__ Columns columns(int) const { return {}; }
  __device__ Late late(int, int, int) const { return {}; }
  template <class Raw>
  __device__ void col_terms(const Raw&, Row, const Columns&, const float (&v)[8],
                            float (&sums)[1][8]) const {
#pragma unroll
    for (int j = 0; j < 8; ++j) sums[0][j] += v[j];
  }
};

/// A tensor that somebody else produced (attention, the optimizer's weights), read again.
template <bool kIsGradient, bool kSums = kIsGradient>
struct Plain : RowFree {
  static constexpr int kColTerms = kSums ? 1 : 0, kReads = 1;
  static constexpr bool kGradient = kIsGradient, kTwoPasses = false;
  const bf16* in;
  struct Raw {
    uint4 x;
  };
  __device__ Raw load(int row, int col, int cols) const {
    return {load8(in + std::size_t(row) * cols + col)};
  }
  __device__ void value(const Raw& raw, Late, Row, const Columns&, float (&out)[8]) const {
    unpack8(raw.x, out);
  }
};

constexpr float kGeluScale = 0.7978845608028654f;  // sqrt(2 / pi)
constexpr float kGeluCubic = 0.044715f;

__device__ inline float tanh_of(float x) {  // |error| about 2e-7, far below bf16's half ulp
  const float e = __expf(-2.0f * fabsf(x));
  return copysignf(__fdividef(1.0f - e, 1.0f + e), x);
}

struct Gelu : RowFree {
  static constexpr int kColTerms = 0, kReads = 1;
  static constexpr bool kGradient = false, kTwoPasses = false;
  const bf16* in;
  struct Raw {
    uint4 x;
  };
  __device__ Raw load(int row, int col, int cols) const {
    return {load8(in + std::size_t(row) * cols + col)};
  }
  __device__ void value(const Raw& raw, Late, Row, const Columns&, float (&out)[8]) const {
    unpack8(raw.x, out);
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      const float x = out[j];
      out[j] = 0.5f * x * (1.0f + tanh_of(kGeluScale * (x + kGeluCubic * x * x * x)));
    }
  }
};

struct GeluBackward : RowFree {
  static constexpr int kColTerms = 1, kReads = 2;
  static constexpr bool kGradient = true, kTwoPasses = false;
  const bf16* grad;
  const bf16* in;
  struct Raw {
    uint4 g, x;
  };
  __device__ Raw load(int row, int col, int cols) const {
    const std::size_t at = std::size_t(row) * cols + col;
    return {load8(grad + at), load8(in + at)};
  }
  __device__ void value(const Raw& raw, Late, Row, const Columns&, float (&out)[8]) const {
    float x[8];
    unpack8(raw.g, out);
    unpack8(raw.x, x);
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      const float t = tanh_of(kGeluScale * (x[j] + kGeluCubic * x[j] * x[j] * x[j]));
      const float slope = kGeluScale * (1.0f + 3.0f * kGeluCubic * x[j] * x[j]);
      out[j] *= 0.5f * (1.0f + t) + 0.5f * x[j] * (1.0f - t * t) * slope;
    }
  }
};

constexpr float kLayerNormEps = 1e-5f;

struct LnForward {
  static constexpr bool kRowSums = true, kGradient = false, kTwoPasses = false;
  static constexpr int kColTerms = 0, kReads = 1;
  const bf16 *in, *gamma, *beta;
  float2* stats;  // mean and 1/deviation of each row, written for the backward
  struct Raw {
    uint4 x;
  };
  struct Columns {
    uint4 gamma, beta;
  };
  using Row = float2;
  using Late = Empty;
  __device__ Late late(int, int, int) const { return {}; }
  __device__ Columns columns(int col) const { return {load8(gamma + col), load8(beta + col)}; }
  __device__ Raw load(int row, int col, int cols) const {
    return {load8(in + std::size_t(row) * cols + col)};
  }
  __device__ float2 sums(const Raw& raw, const Columns&) const {
    float x[8];
    unpack8(raw.x, x);
    float2 s{0, 0};
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      s.x += x[j];
      s.y += x[j] * x[j];
    }
    return s;
  }
  __device__ Row row(float2 total, int cols) const {
    const float mean = total.x / float(cols);
    return {mean, rsqrtf(fmaxf(total.y / float(cols) - mean * mean, 0.0f) + kLayerNormEps)};
  }
  __device__ void store_row(int row, Row r) const { stats[row] = r; }
  __device__ void value(const Raw& raw, Late, Row r, const Columns& c, float (&out)[8]) const {
    float g[8], b[8];
    unpack8(raw.x, out);
    unpack8(c.gamma, g);
    unpack8(c.beta, b);
#pragma unroll
    for (int j = 0; j < 8; ++j) out[j] = (out[j] - r.x) * r.y * g[j] + b[j];
  }
};

/// Layer norm's input gradient plus the gradient that came along the residual path.
struct LnBackward {
  static constexpr bool kRowSums = true, kGradient = true, kTwoPasses = true;
  static constexpr int kReads = 3;
  static constexpr int kColTerms = 3;  // dgamma, dbeta, and the sum of the result (a bias gradient)
  const bf16 *grad, *in, *gamma, *residual;
  const float2* stats;
  struct Raw {
    uint4 g, x;
    float2 stats;
  };
  struct Columns {
    uint4 gamma;
  };
  using Row = float2;
  using Late = uint4;
  __device__ Late late(int row, int col, int cols) const {
    return load8(residual + std::size_t(row) * cols + col);
  }
  __device__ Columns columns(int col) const { return {load8(gamma + col)}; }
  __device__ Raw load(int row, int col, int cols) const {
    const std::size_t at = std::size_t(row) * cols + col;
    return {load8(grad + at), load8(in + at), stats[row]};
  }
  __device__ float2 sums(const Raw& raw, const Columns& c) const {
    float g[8], x[8], w[8];
    unpack8(raw.g, g);
    unpack8(raw.x, x);
    unpack8(c.gamma, w);
    float2 s{0, 0};
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      s.x += g[j] * w[j];
      s.y += g[j] * w[j] * ((x[j] - raw.stats.x) * raw.stats.y);
    }
    return s;
  }
  __device__ Row row(float2 total, int cols) const {
    return {total.x / float(cols), total.y / float(cols)};
  }
  __device__ void store_row(int, Row) const {}
  __device__ void value(const Raw& raw, Late late, Row r, const Columns& c, float (&out)[8]) const {
    float g[8], x[8], w[8];
    unpack8(raw.g, g);
    unpack8(raw.x, x);
    unpack8(c.gamma, w);
    unpack8(late, out);
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      const float hat = (x[j] - raw.stats.x) * raw.stats.y;
      out[j] += raw.stats.y * (g[j] * w[j] - r.x - hat * r.y);
    }
  }
  __device__ void col_terms(const Raw& raw, Row, const Columns&, const float (&v)[8],
                            float (&sums)[3][8]) const {
    float g[8], x[8];
    unpack8(raw.g, g);
    unpack8(raw.x, x);
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      sums[0][j] += g[j] * ((x[j] - raw.stats.x) * raw.stats.y);
      sums[1][j] += g[j];
      sums[2][j] += v[j];
    }
  }
};

}  // namespace nibble::spike
