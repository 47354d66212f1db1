#include "reference.h"

namespace nibble::spike {
namespace {

constexpr double kScaleGelu = 0.79788456080286535588, kCubic = 0.044715, kEps = 1e-5;

__device__ double block_total(double x) {
  __shared__ double part[8];
  for (int d = 16; d > 0; d /= 2) x += __shfl_xor_sync(~0u, x, d);
  __syncthreads();
  if (threadIdx.x % 32 == 0) part[threadIdx.x / 32] = x;
  __syncthreads();
  double total = 0;
  for (int w = 0; w < 8; ++w) total += part[w];
  return total;
}

// One block of 256 threads a row. stats: mean and 1/deviation.
__global__ void ln_kernel(double* out, double2* stats, const double* x, const double* gamma,
                          const double* beta, int cols) {
  const std::size_t base = std::size_t(blockIdx.x) * cols;
  double s = 0;
  for (int c = threadIdx.x; c < cols; c += 256) s += x[base + c];
  const double mean = block_total(s) / cols;
  s = 0;
  for (int c = threadIdx.x; c < cols; c += 256) s += (x[base + c] - mean) * (x[base + c] - mean);
  const double inverse = rsqrt(block_total(s) / cols + kEps);
  for (int c = threadIdx.x; c < cols; c += 256)
    out[base + c] = (x[base + c] - mean) * inverse * gamma[c] + beta[c];
  if (threadIdx.x == 0) stats[blockIdx.x] = {mean, inverse};
}

// hat_grad gets dy · x̂, whose column sums are dgamma.
__global__ void ln_backward_kernel(double* dx, double* hat_grad, const double* dy, const double* x,
                                   const double* gamma, const double* residual,
                                   const double2* stats, int cols) {
  const std::size_t base = std::size_t(blockIdx.x) * cols;
  const double mean = stats[blockIdx.x].x, inverse = stats[blockIdx.x].y;
  double s1 = 0, s2 = 0;
  for (int c = threadIdx.x; c < cols; c += 256) {
    const double hat = (x[base + c] - mean) * inverse;
    s1 += dy[base + c] * gamma[c];
    s2 += dy[base + c] * gamma[c] * hat;
    hat_grad[base + c] = dy[base + c] * hat;
  }
  s1 = block_total(s1) / cols;
  s2 = block_total(s2) / cols;
  for (int c = threadIdx.x; c < cols; c += 256) {
    const double hat = (x[base + c] - mean) * inverse;
    dx[base + c] = residual[base + c] + inverse * (dy[base + c] * gamma[c] - s1 - hat * s2);
  }
}

__global__ void gelu_kernel(double* out, const double* x, std::size_t n) {
  for (std::size_t i = blockIdx.x * 256ull + threadIdx.x; i < n; i += gridDim.x * 256ull)
    out[i] = 0.5 * x[i] * (1 + tanh(kScaleGelu * (x[i] + kCubic * x[i] * x[i] * x[i])));
}

__global__ void gelu_backward_kernel(double* grad, const double* x, std::size_t n) {
  for (std::size_t i = blockIdx.x * 256ull + threadIdx.x; i < n; i += gridDim.x * 256ull) {
    const double t = tanh(kScaleGelu * (x[i] + kCubic * x[i] * x[i] * x[i]));
    grad[i] *=
        0.5 * (1 + t) + 0.5 * x[i] * (1 - t * t) * kScaleGelu * (1 + 3 * kCubic * x[i] * x[i]);
  }
}

__global__ void column_kernel(double* out, const double* x, int rows, int cols) {
  const int c = int(blockIdx.x) * 256 + int(threadIdx.x);
  if (c >= cols) return;
  double s = 0;
  for (int r = blockIdx.y; r < rows; r += gridDim.y) s += x[std::size_t(r) * cols + c];
  atomicAdd(out + c, s);
}

Buffer<double> widen(const Buffer<bf16>& in) {
  Buffer<double> out(in.size());
  to_double(out.get(), in.get(), in.size());
  return out;
}

Buffer<double> column_sums(const Buffer<double>& x, int rows, int cols) {
  Buffer<double> out(cols);
  out.zero();
  column_kernel<<<dim3(unsigned(ceil_div(cols, 256)), 64), 256>>>(out.get(), x.get(), rows, cols);
  check(cudaGetLastError());
  return out;
}

/// Row-major out[m, n] = op(a) · op(b)ᵀ with a stored [m, k] (or [k, m]) and b [n, k] (or [k, n]).
Buffer<double> multiply(GemmLibrary& gemm, const Buffer<double>& a, bool a_t,
                        const Buffer<double>& b, bool b_t, int m, int n, int k) {
  Buffer<double> out(std::size_t(m) * n);
  GemmShape s{.m = n,
              .n = m,
              .k = k,
              .trans_a = !b_t,
              .trans_b = a_t,
              .lda = b_t ? n : k,
              .ldb = a_t ? m : k,
              .ldd = n,
              .in = CUDA_R_64F,
              .out = CUDA_R_64F};
  gemm.run(s, b.get(), a.get(), out.get());
  return out;
}

}  // namespace

Reference::Reference(GemmLibrary& gemm, const BlockData& data) {
  const int m = data.shape.rows(), c = data.shape.channels;
  const std::size_t mc = std::size_t(m) * c;
  std::array<Buffer<double>, kLayers> w;
  for (int l = 0; l < kLayers; ++l) w[l] = widen(data.weight[l]);
  const auto x = widen(data.x), dy = widen(data.dy);
  Attention<double> attention(data.shape.batch, data.shape.heads(), data.shape.tokens);

  auto linear = [&](Layer l, const Buffer<double>& in, const double* add) {
    const int n = kOutUnits[l] * c;
    auto out = multiply(gemm, in, false, w[l], false, m, n, kInUnits[l] * c);
    finish_output(out.get(), out.get(), widen(data.bias[l]).get(), add, m, n);
    return out;
  };
  auto norm = [&](int i, const Buffer<double>& in, Buffer<double2>& stats) {
    Buffer<double> out(mc);
    const auto gamma = widen(data.gamma[i]), beta = widen(data.beta[i]);
    ln_kernel<<<unsigned(m), 256>>>(out.get(), stats.get(), in.get(), gamma.get(), beta.get(), c);
    check(cudaGetLastError());
    return out;
  };
  Buffer<double2> stats1(m), stats2(m);
  const auto h1 = norm(0, x, stats1);
  const auto qkv = linear(kQkv, h1, nullptr);
  Buffer<double> att(mc);
  attention.forward(gemm, att.get(), qkv.get());
  const auto r1 = linear(kProj, att, x.get());
  const auto h2 = norm(1, r1, stats2);
  const auto f1 = linear(kFc1, h2, nullptr);
  Buffer<double> g(4 * mc);
  gelu_kernel<<<2112, 256>>>(g.get(), f1.get(), 4 * mc);
  check(cudaGetLastError());
  y = linear(kFc2, g, r1.get());

  auto backward = [&](Layer l, const Buffer<double>& grad, const Buffer<double>& in) {
    const int out = kOutUnits[l] * c, width = kInUnits[l] * c;
    dweight[l] = multiply(gemm, grad, true, in, true, out, width, m);
    dbias[l] = column_sums(grad, m, out);
    return multiply(gemm, grad, false, w[l], true, m, width, out);
  };
  auto norm_backward = [&](int i, const Buffer<double>& grad, const Buffer<double>& in,
                           const Buffer<double>& residual, const Buffer<double2>& stats) {
    Buffer<double> out(mc), hat(mc);
    ln_backward_kernel<<<unsigned(m), 256>>>(out.get(), hat.get(), grad.get(), in.get(),
                                             widen(data.gamma[i]).get(), residual.get(),
                                             stats.get(), c);
    check(cudaGetLastError());
    dgamma[i] = column_sums(hat, m, c);
    dbeta[i] = column_sums(grad, m, c);
    return out;
  };
  auto df1 = backward(kFc2, dy, g);
  gelu_backward_kernel<<<2112, 256>>>(df1.get(), f1.get(), 4 * mc);
  check(cudaGetLastError());
  const auto dh2 = backward(kFc1, df1, h2);
  const auto dr1 = norm_backward(1, dh2, r1, dy, stats2);
  const auto datt = backward(kProj, dr1, att);
  Buffer<double> dqkv(3 * mc);
  attention.backward(gemm, dqkv.get(), datt.get(), qkv.get());
  const auto dh1 = backward(kQkv, dqkv, h1);
  dx = norm_backward(0, dh1, x, dr1, stats1);
}

std::vector<NamedError> compare(const Block& block, const Reference& r) {
  std::vector<NamedError> out;
  auto add = [&](const std::string& name, const auto* value, const Buffer<double>& reference) {
    out.push_back({name, error_norm(value, reference.get(), reference.size())});
  };
  add("y", block.y(), r.y);
  add("dx", block.dx(), r.dx);
  for (int l = 0; l < kLayers; ++l)
    add(std::string("dw ") + kLayerNames[l], block.dweight(Layer(l)), r.dweight[l]);
  for (int l = 0; l < kLayers; ++l)
    add(std::string("db ") + kLayerNames[l], block.dbias(Layer(l)), r.dbias[l]);
  for (int i = 0; i < 2; ++i) {
    add("dgamma " + std::to_string(i + 1), block.dgamma(i), r.dgamma[i]);
    add("dbeta " + std::to_string(i + 1), block.dbeta(i), r.dbeta[i]);
  }
  return out;
}

}  // namespace nibble::spike
