#include "block.h"

namespace nibble::spike {
namespace {

void copy(const Buffer<bf16>& to, const Buffer<bf16>& from) {
  check(cudaMemcpy(to.get(), from.get(), from.size() * sizeof(bf16), cudaMemcpyDeviceToDevice));
}

NoiseKey noise(std::uint32_t site) { return {0x6e696262u, 0x6c65u, site, 1}; }

}  // namespace

BlockData::BlockData(BlockShape s, bool outliers) : shape(s) {
  const int m = s.rows(), c = s.channels;
  auto make = [](Buffer<bf16>& b, int rows, int cols, Distribution d, std::uint32_t seed) {
    b = Buffer<bf16>(std::size_t(rows) * cols);
    fill_normal(b.get(), rows, cols, d, seed);
  };
  Distribution act, grad{.deviation = 1e-3f};
  if (outliers) {  // a few large channels, and tokens whose gradients differ by orders of magnitude
    act.outlier_every = 97;
    act.outlier_gain = 20;
    grad.outlier_every = 101;
    grad.outlier_gain = 10;
    grad.row_sigma = 1.5f;
  }
  make(x, m, c, act, 1);
  make(dy, m, c, grad, 2);
  for (int l = 0; l < kLayers; ++l) {
    make(weight[l], kOutUnits[l] * c, kInUnits[l] * c, {.deviation = 0.02f}, 10 + l);
    make(bias[l], 1, kOutUnits[l] * c, {.deviation = 0.02f}, 20 + l);
  }
  for (int i = 0; i < 2; ++i) {
    make(gamma[i], 1, c, {.mean = 1, .deviation = 0.1f}, 30 + i);
    make(beta[i], 1, c, {.deviation = 0.1f}, 40 + i);
  }
}

Block::Block(GemmLibrary& gemm, const BlockData& data, Family family, Products products)
    : gemm_(gemm),
      data_(data),
      family_(family),
      products_(products),
      m_(data.shape.rows()),
      c_(data.shape.channels),
      arena_(std::size_t(8) * m_ + 50 * std::size_t(c_)),
      given_(std::size_t(m_) + c_),
      encoder_(4 * c_),
      attention_(data.shape.batch, data.shape.heads(), data.shape.tokens) {
  const std::size_t mc = std::size_t(m_) * c_;
  for (int l = 0; l < kLayers; ++l) {
    const Family f = family == Family::kGroup ? Family::kTile : family;  // weights: 128 × 128
    weight_[l] = Operand(kOutUnits[l] * c_, kInUnits[l] * c_, f, true, arena_);
    copy(weight_[l].dense, data.weight[l]);
    dweight_[l] = Buffer<bf16>(data.weight[l].size());
  }
  h1_ = Operand(m_, c_, family, false, arena_);
  att_ = Operand(m_, c_, family, true, arena_);
  h2_ = Operand(m_, c_, family, false, arena_);
  g_ = Operand(m_, 4 * c_, family, false, arena_);
  dy_ = Operand(m_, c_, family, true, given_);
  df1_ = Operand(m_, 4 * c_, family, false, arena_);
  dr1_ = Operand(m_, c_, family, true, arena_);
  dqkv_ = Operand(m_, 3 * c_, family, true, arena_);
  dx_ = Operand(m_, c_, family, true, arena_);
  for (auto* b : {&r1_, &y_, &dh_, &datt_}) *b = Buffer<bf16>(mc);
  qkv_ = Buffer<bf16>(3 * mc);
  for (auto* b : {&f1_, &dg_}) *b = Buffer<bf16>(4 * mc);
  stats1_ = Buffer<float2>(m_);
  stats2_ = Buffer<float2>(m_);
  for (auto& b : ln_sums_) b = Buffer<float>(3 * std::size_t(c_));
  dbias_qkv_ = Buffer<float>(3 * std::size_t(c_));
  dbias_fc1_ = Buffer<float>(4 * std::size_t(c_));
  dbias_fc2_ = Buffer<float>(c_);
  if (family != Family::kBf16) {
    const std::size_t wide = std::size_t(std::max(m_, 4 * c_));
    stand_in_row_ = Buffer<float>(wide);
    stand_in_col_ = Buffer<float>(wide);
    acc_ = Buffer<std::int32_t>(4 * mc);
  }
  if (products == Products::kDequantized)
    for (auto* b : {&wide_a_, &wide_b_, &wide_d_}) *b = Buffer<double>(4 * mc);

  // dy as the block above would hand it over: with its absmaxes, or already encoded.
  Profiler off(false);
  given_.zero_async();
  copy(dy_.dense, data.dy);
  encoder_.encode<true>(off, "dy", dy_.dense.get(), dy_, dbias_fc2_.get(), noise(4));
}

const float* Block::dbias(Layer l) const {
  switch (l) {
    case kQkv: return dbias_qkv_.get();
    case kProj: return ln_sums_[1].get() + 2 * c_;
    case kFc1: return dbias_fc1_.get();
    default: return dbias_fc2_.get();
  }
}

void Block::run(Profiler& prof) {
  prof.begin();
  if (family_ == Family::kRow) {
    arena_.zero_async();
    prof.mark("quantize", "zero absmax", 0);
  }
  for (int l = 0; l < kLayers && family_ != Family::kBf16; ++l)
    encoder_.encode<false>(prof, kLayerNames[l], weight_[l].dense.get(), weight_[l], nullptr, {},
                           "weight encode");
  forward(prof);
  backward(prof);
  prof.end();
}

void Block::forward(Profiler& prof) {
  const double attention_flops = 2.0 * m_ * data_.shape.tokens * c_;  // causal half of 4·M·T·C
  encoder_.produce(
      prof, "ln1",
      LnForward{data_.x.get(), data_.gamma[0].get(), data_.beta[0].get(), stats1_.get()}, h1_,
      nullptr, {});
  linear(prof, kQkv, h1_, nullptr, qkv_.get());
  attention_.forward(gemm_, att_.dense.get(), qkv_.get());
  prof.mark("attention", "attention forward (stand-in)", 0, attention_flops);
  encoder_.encode<false>(prof, "att", att_.dense.get(), att_, nullptr, {});
  linear(prof, kProj, att_, data_.x.get(), r1_.get());
  encoder_.produce(prof, "ln2",
                   LnForward{r1_.get(), data_.gamma[1].get(), data_.beta[1].get(), stats2_.get()},
                   h2_, nullptr, {});
  linear(prof, kFc1, h2_, nullptr, f1_.get());
  encoder_.produce(prof, "gelu", Gelu{{}, f1_.get()}, g_, nullptr, {});
  linear(prof, kFc2, g_, r1_.get(), y_.get());
}

void Block::backward(Profiler& prof) {
  if (family_ == Family::kRow) encoder_.pair_pass<true>(prof, "dy", dy_.dense.get(), dy_, noise(4));
  linear_backward(prof, kFc2, dy_, g_, dg_.get());
  encoder_.produce(prof, "gelu backward", GeluBackward{{}, dg_.get(), f1_.get()}, df1_,
                   dbias_fc1_.get(), noise(3));
  linear_backward(prof, kFc1, df1_, h2_, dh_.get());
  encoder_.produce(
      prof, "ln2 backward",
      LnBackward{dh_.get(), r1_.get(), data_.gamma[1].get(), dy_.dense.get(), stats2_.get()}, dr1_,
      ln_sums_[1].get(), noise(2));
  linear_backward(prof, kProj, dr1_, att_, datt_.get());
  attention_.backward(gemm_, dqkv_.dense.get(), datt_.get(), qkv_.get());
  prof.mark("attention", "attention backward (stand-in)", 0, 5.0 * m_ * data_.shape.tokens * c_);
  encoder_.encode<true>(prof, "dqkv", dqkv_.dense.get(), dqkv_, dbias_qkv_.get(), noise(1));
  linear_backward(prof, kQkv, dqkv_, h1_, dh_.get());
  encoder_.produce(
      prof, "ln1 backward",
      LnBackward{dh_.get(), data_.x.get(), data_.gamma[0].get(), dr1_.dense.get(), stats1_.get()},
      dx_, ln_sums_[0].get(), noise(0), true);
}

}  // namespace nibble::spike
