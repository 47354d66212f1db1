// The three products of a linear layer, each out[m, n] = a[m, k] · b[n, k]ᵀ, for every family.
#include "block.h"

namespace nibble::spike {

struct Block::Product {
  std::string name;
  int m, n, k;
  const Operand *a, *b;
  bool a_t, b_t;  // take the operand's transpose
  bf16* out;
  const bf16* bias = nullptr;
  const bf16* add = nullptr;
  double flops() const { return 2.0 * m * n * k; }
};

namespace {

const std::int8_t* codes(const Operand& o, bool t) { return t ? o.codes_t.get() : o.codes.get(); }
ScaleView view(const Operand& o, bool t) { return t ? o.view_t() : o.view(); }

/// Row-major a[m, k] · b[n, k]ᵀ in cuBLAS's column-major terms: Dᵀ = b · aᵀ; a transposed operand
/// is stored [k, rows].
GemmShape product_shape(int m, int n, int k, bool a_t, bool b_t, cudaDataType_t in,
                        cudaDataType_t out) {
  GemmShape s{.m = n, .n = m, .k = k};
  s.trans_a = !b_t;
  s.trans_b = a_t;
  s.lda = b_t ? n : k;
  s.ldb = a_t ? m : k;
  s.ldd = n;
  s.in = in;
  s.out = out;
  return s;
}

}  // namespace

void Block::linear(Profiler& prof, Layer l, const Operand& x, const bf16* add, bf16* y) {
  multiply(prof, {std::string(kLayerNames[l]) + " fprop", m_, kOutUnits[l] * c_, kInUnits[l] * c_,
                  &x, &weight_[l], false, false, y, data_.bias[l].get(), add});
}

void Block::linear_backward(Profiler& prof, Layer l, const Operand& dy, const Operand& x,
                            bf16* dx) {
  const int out = kOutUnits[l] * c_, in = kInUnits[l] * c_;
  multiply(prof, {std::string(kLayerNames[l]) + " dgrad", m_, in, out, &dy, &weight_[l], false,
                  true, dx});
  multiply(prof, {std::string(kLayerNames[l]) + " wgrad", out, in, m_, &dy, &x, true, true,
                  dweight_[l].get()});
}

void Block::multiply(Profiler& prof, const Product& p) {
  if (family_ != Family::kBf16) {
    if (products_ == Products::kDequantized)
      multiply_dequantized(p);
    else
      multiply_integer(prof, p);
    return;
  }
  GemmShape s = product_shape(p.m, p.n, p.k, p.a_t, p.b_t, CUDA_R_16BF, CUDA_R_16BF);
  s.bias = p.bias != nullptr;
  s.add = p.add != nullptr;
  gemm_.run(s, p.b->dense.get(), p.a->dense.get(), p.out, 1.0, p.bias, p.add);
  const double mn = double(p.m) * p.n;
  prof.mark("gemm", p.name, 2.0 * (double(p.m) * p.k + double(p.n) * p.k + mn + (s.add ? mn : 0)),
            p.flops());
}

void Block::multiply_integer(Profiler& prof, const Product& p) {
  const std::int8_t *a = codes(*p.a, p.a_t), *b = codes(*p.b, p.b_t);
  gemm_.run(product_shape(p.m, p.n, p.k, false, false, CUDA_R_8I, CUDA_R_32I), b, a, acc_.get());
  const double mn = double(p.m) * p.n;
  prof.mark("gemm", p.name, double(p.m) * p.k + double(p.n) * p.k + 4 * mn, p.flops());
  if (samples_ > 0) wrong_ += count_wrong_products(acc_.get(), a, b, p.m, p.n, p.k, samples_, 99);

  ScaleView row = view(*p.a, p.a_t), col = view(*p.b, p.b_t);
  if (family_ != Family::kRow) {
    // The product of local scales is counted as the row-scaled one: take each row's first scale.
    gather_row_scales(stand_in_row_.get(), row, p.m);
    gather_row_scales(stand_in_col_.get(), col, p.n);
    row.data = stand_in_row_.get();
    col.data = stand_in_col_.get();
    prof.mark("stand-in", "row scales for " + p.name, 0);
  }
  scale_output(p.out, acc_.get(), row.data, col.data, p.bias, p.add, p.m, p.n);
  prof.mark("scaling", p.name, mn * (4 + 2 + (p.add != nullptr ? 2 : 0)));
}

void Block::multiply_dequantized(const Product& p) {
  dequantize(wide_a_.get(), codes(*p.a, p.a_t), view(*p.a, p.a_t), p.m, p.k);
  dequantize(wide_b_.get(), codes(*p.b, p.b_t), view(*p.b, p.b_t), p.n, p.k);
  gemm_.run(product_shape(p.m, p.n, p.k, false, false, CUDA_R_64F, CUDA_R_64F), wide_b_.get(),
            wide_a_.get(), wide_d_.get());
  finish_output(p.out, wide_d_.get(), p.bias, p.add, p.m, p.n);
}

int Block::count_wrong(int samples) {
  if (family_ == Family::kBf16 || products_ != Products::kFast)
    throw std::runtime_error("count_wrong: this variant runs no integer products");
  Profiler off(false);
  samples_ = samples;
  wrong_ = 0;
  run(off);
  samples_ = 0;
  return wrong_;
}

}  // namespace nibble::spike
