#include "host_block.h"

#include <cmath>

namespace nibble::spike {
namespace {

using Matrix = std::vector<double>;

Matrix widen(const Buffer<bf16>& b) {
  const auto h = b.host();
  Matrix out(h.size());
  for (std::size_t i = 0; i < h.size(); ++i) out[i] = __bfloat162float(h[i]);
  return out;
}

struct LayerNorm {
  int m, c;
  Matrix gamma, hat, inverse;
  Matrix forward(const Matrix& x, const Matrix& beta) {
    Matrix out(x.size());
    hat.resize(x.size());
    inverse.resize(m);
    for (int r = 0; r < m; ++r) {
      double mean = 0, var = 0;
      for (int j = 0; j < c; ++j) mean += x[r * c + j] / c;
      for (int j = 0; j < c; ++j) var += (x[r * c + j] - mean) * (x[r * c + j] - mean) / c;
      inverse[r] = 1 / std::sqrt(var + 1e-5);
      for (int j = 0; j < c; ++j) {
        hat[r * c + j] = (x[r * c + j] - mean) * inverse[r];
        out[r * c + j] = hat[r * c + j] * gamma[j] + beta[j];
      }
    }
    return out;
  }
  Matrix backward(const Matrix& dy, Matrix& dgamma, Matrix& dbeta) const {
    Matrix dx(dy.size());
    dgamma.assign(c, 0);
    dbeta.assign(c, 0);
    for (int r = 0; r < m; ++r) {
      double s1 = 0, s2 = 0;
      for (int j = 0; j < c; ++j) {
        const double g = dy[r * c + j], h = hat[r * c + j];
        s1 += g * gamma[j] / c;
        s2 += g * gamma[j] * h / c;
        dgamma[j] += g * h;
        dbeta[j] += g;
      }
      for (int j = 0; j < c; ++j)
        dx[r * c + j] = inverse[r] * (dy[r * c + j] * gamma[j] - s1 - hat[r * c + j] * s2);
    }
    return dx;
  }
};

struct Linear {
  int m, in, out;
  Matrix w, b, x;
  Matrix forward(const Matrix& input) {
    x = input;
    Matrix y(std::size_t(m) * out);
    for (int r = 0; r < m; ++r)
      for (int o = 0; o < out; ++o) {
        double s = b[o];
        for (int i = 0; i < in; ++i) s += x[r * in + i] * w[o * in + i];
        y[r * out + o] = s;
      }
    return y;
  }
  Matrix backward(const Matrix& dy, Matrix& dw, Matrix& db) const {
    Matrix dx(std::size_t(m) * in, 0.0);
    dw.assign(std::size_t(out) * in, 0.0);
    db.assign(out, 0.0);
    for (int r = 0; r < m; ++r)
      for (int o = 0; o < out; ++o) {
        const double g = dy[r * out + o];
        db[o] += g;
        for (int i = 0; i < in; ++i) {
          dx[r * in + i] += g * w[o * in + i];
          dw[o * in + i] += g * x[r * in + i];
        }
      }
    return dx;
  }
};

/// Causal attention of one head over tokens × 64 slices of qkv; backward adds into dqkv.
struct HeadView {
  int tokens, stride_qkv, stride_out, q, k, v, o;
};

Matrix head_probs(const HeadView& h, const Matrix& qkv) {
  Matrix p(std::size_t(h.tokens) * h.tokens, 0.0);
  for (int i = 0; i < h.tokens; ++i) {
    double sum = 0;
    for (int j = 0; j <= i; ++j) {
      double s = 0;
      for (int d = 0; d < kHeadDim; ++d)
        s += qkv[h.q + i * h.stride_qkv + d] * qkv[h.k + j * h.stride_qkv + d];
      sum += p[i * h.tokens + j] = std::exp(s / std::sqrt(double(kHeadDim)));
    }
    for (int j = 0; j <= i; ++j) p[i * h.tokens + j] /= sum;
  }
  return p;
}

void head_forward(const HeadView& h, const Matrix& qkv, Matrix& out) {
  const Matrix p = head_probs(h, qkv);
  for (int i = 0; i < h.tokens; ++i)
    for (int d = 0; d < kHeadDim; ++d) {
      double s = 0;
      for (int j = 0; j <= i; ++j) s += p[i * h.tokens + j] * qkv[h.v + j * h.stride_qkv + d];
      out[h.o + i * h.stride_out + d] = s;
    }
}

void head_backward(const HeadView& h, const Matrix& qkv, const Matrix& dout, Matrix& dqkv) {
  const Matrix p = head_probs(h, qkv);
  std::vector<double> dp(h.tokens);
  for (int i = 0; i < h.tokens; ++i) {
    double dot = 0;
    for (int j = 0; j <= i; ++j) {
      dp[j] = 0;
      for (int d = 0; d < kHeadDim; ++d) {
        const double g = dout[h.o + i * h.stride_out + d];
        dp[j] += g * qkv[h.v + j * h.stride_qkv + d];
        dqkv[h.v + j * h.stride_qkv + d] += p[i * h.tokens + j] * g;
      }
      dot += p[i * h.tokens + j] * dp[j];
    }
    for (int j = 0; j <= i; ++j) {
      const double ds = p[i * h.tokens + j] * (dp[j] - dot) / std::sqrt(double(kHeadDim));
      for (int d = 0; d < kHeadDim; ++d) {
        dqkv[h.q + i * h.stride_qkv + d] += ds * qkv[h.k + j * h.stride_qkv + d];
        dqkv[h.k + j * h.stride_qkv + d] += ds * qkv[h.q + i * h.stride_qkv + d];
      }
    }
  }
}

}  // namespace

HostBlock::HostBlock(const BlockData& data) {
  const BlockShape s = data.shape;
  const int m = s.rows(), c = s.channels;
  std::array<Linear, kLayers> linear;
  for (int l = 0; l < kLayers; ++l)
    linear[l] = {m, kInUnits[l] * c, kOutUnits[l] * c, widen(data.weight[l]), widen(data.bias[l]),
                 {}};
  LayerNorm ln1{m, c, widen(data.gamma[0]), {}, {}}, ln2{m, c, widen(data.gamma[1]), {}, {}};
  const Matrix x = widen(data.x), dy = widen(data.dy);
  auto add = [](Matrix a, const Matrix& b) {
    for (std::size_t i = 0; i < a.size(); ++i) a[i] += b[i];
    return a;
  };
  auto heads = [&](auto&& f) {
    for (int b = 0; b < s.batch; ++b)
      for (int h = 0; h < s.heads(); ++h) {
        const int base = b * s.tokens * 3 * c + h * kHeadDim;
        f(HeadView{s.tokens, 3 * c, c, base, base + c, base + 2 * c,
                   b * s.tokens * c + h * kHeadDim});
      }
  };

  const Matrix qkv = linear[kQkv].forward(ln1.forward(x, widen(data.beta[0])));
  Matrix att(x.size());
  heads([&](const HeadView& h) { head_forward(h, qkv, att); });
  const Matrix r1 = add(linear[kProj].forward(att), x);
  const Matrix f1 = linear[kFc1].forward(ln2.forward(r1, widen(data.beta[1])));
  auto inner = [](double v) { return std::sqrt(2 / M_PI) * (v + 0.044715 * v * v * v); };
  Matrix g(f1.size());
  for (std::size_t i = 0; i < g.size(); ++i) g[i] = 0.5 * f1[i] * (1 + std::tanh(inner(f1[i])));
  y = add(linear[kFc2].forward(g), r1);

  Matrix df1 = linear[kFc2].backward(dy, dweight[kFc2], dbias[kFc2]);
  for (std::size_t i = 0; i < g.size(); ++i) {
    const double t = std::tanh(inner(f1[i]));
    df1[i] *= 0.5 * (1 + t) +
              0.5 * f1[i] * (1 - t * t) * std::sqrt(2 / M_PI) * (1 + 3 * 0.044715 * f1[i] * f1[i]);
  }
  const Matrix dh2 = linear[kFc1].backward(df1, dweight[kFc1], dbias[kFc1]);
  const Matrix dr1 = add(ln2.backward(dh2, dgamma[1], dbeta[1]), dy);
  const Matrix datt = linear[kProj].backward(dr1, dweight[kProj], dbias[kProj]);
  Matrix dqkv(qkv.size(), 0.0);
  heads([&](const HeadView& h) { head_backward(h, qkv, datt, dqkv); });
  const Matrix dh1 = linear[kQkv].backward(dqkv, dweight[kQkv], dbias[kQkv]);
  dx = add(ln1.backward(dh1, dgamma[0], dbeta[0]), dr1);
}

}  // namespace nibble::spike
