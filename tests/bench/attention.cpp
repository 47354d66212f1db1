// Attention in bf16 on one GPU: the library's own kernels beside cuDNN's (deterministic
// backward), forward and forward + backward; then the forward that encodes its output beside
// forward and quantizers apart. Random data, cold L2, medians of single runs; the two are first
// compared, and two runs of our own bit by bit. Prints markdown tables.
//   attention_bench [repeats [first row [last row]]]
#include <fmt/format.h>

#include <cmath>
#include <cstdlib>
#include <cstring>

#include "quant/attention_codes.h"
#include "quant/pair_twin.h"
#include "tensor/cuda/attention_routes.h"
#include "tensor/cuda/timing.h"
#include "tensor/ops.h"

using namespace nibble;
using nibble::cuda::median_ms;

namespace {

const Device kGpu = cuda_device(0);

struct Row {
  std::int64_t b, h, t, d;
  double dropout = 0;
  bool causal = true;
};

// q, k and v of one packed tensor, as a model's; all results of both passes.
struct Call {
  Tensor q, k, v, dout, out, lse, dq, dk, dv;
  AttentionOptions options;

  Call(const Row& r, const Tensor& packed, const Tensor& gradient) : dout(gradient) {
    const Shape shape{r.b, r.t, r.h, r.d};
    const auto part = [&](const Tensor& x, int i) { return x.select(2, i); };
    q = part(packed, 0), k = part(packed, 1), v = part(packed, 2);
    const Tensor d = Tensor::full(packed.shape(), 7, DType::BF16, kGpu);
    dq = part(d, 0), dk = part(d, 1), dv = part(d, 2);
    out = Tensor::full(shape, 7, DType::BF16, kGpu);
    lse = Tensor::full({r.b, r.h, r.t}, 7, DType::F32, kGpu);
    options.causal = r.causal;
    options.dropout = r.dropout;
    options.key = {5, 6};
  }
  void own_forward() { cuda::own_attention(out, lse, q, k, v, options); }
  void own_backward() {
    cuda::own_attention_backward(dq, dk, dv, dout, q, k, v, out, lse, options);
  }
#ifdef NIBBLE_HAS_CUDNN
  void cudnn_forward() { cuda::cudnn_attention(out, lse, q, k, v, options); }
  void cudnn_backward() {
    cuda::cudnn_attention_backward(dq, dk, dv, dout, q, k, v, out, lse, options);
  }
#endif
  std::vector<const Tensor*> results() const { return {&out, &lse, &dq, &dk, &dv}; }
};

// Noise of `x` over the signal of `y`, the worst of the results.
double noise(const Call& x, const Call& y) {
  double worst = 0;
  for (std::size_t i = 0; i < x.results().size(); ++i) {
    const Tensor a = x.results()[i]->to(DType::F32), b = y.results()[i]->to(DType::F32);
    const Tensor error = ops::sub(a, b);
    const double share = ops::sum(ops::mul(error, error)).item() / ops::sum(ops::mul(b, b)).item();
    worst = std::isnan(worst) || share <= worst ? worst : share;  // NaN is the worst, and stays
  }
  return worst;
}

void measure(const Row& r, int repeats) {
  const auto normal = [](const Shape& shape, std::uint32_t site) {
    return Tensor::normal(shape, 0, 1, RngKey{5, site}, DType::F32, kGpu).to(DType::BF16);
  };
  const Tensor packed = normal({r.b, r.t, 3, r.h, r.d}, 1), dout = normal({r.b, r.t, r.h, r.d}, 2);
  Call own(r, packed, dout), again(r, packed, dout);
  own.own_forward(), own.own_backward();
  again.own_forward(), again.own_backward();
  const bool repeatable = noise(own, again) == 0;
  const double forward = median_ms(repeats, [&] { own.own_forward(); }),
               both = median_ms(repeats, [&] { own.own_forward(), own.own_backward(); });
  const double operations =
      (r.causal ? 2.0 : 4.0) * static_cast<double>(r.b * r.h * r.t * r.t * r.d) / 1e9;
  fmt::print("| {}, {}, {}, {}{} | {:.3f}, {:.0f} | {:.3f}, {:.0f} ", r.b, r.h, r.t, r.d,
             r.dropout > 0 ? fmt::format(", dropout {}", r.dropout)
             : r.causal    ? ""
                           : ", no mask",
             forward, operations / forward, both, 3.5 * operations / both);
#ifdef NIBBLE_HAS_CUDNN
  if (cudnn_attention_refusal({own.q, own.k, own.options}, AttentionPass::Backward).empty()) {
    Call theirs(r, packed, dout);
    theirs.cudnn_forward(), theirs.cudnn_backward();
    const double f = median_ms(repeats, [&] { theirs.cudnn_forward(); }),
                 a = median_ms(repeats, [&] { theirs.cudnn_forward(), theirs.cudnn_backward(); });
    const double n = noise(own, theirs);
    fmt::print("| {:.3f} | {:.3f} | {:.2f}x | {:.2f}x | {:.1e}{} ", f, a, forward / f, both / a, n,
               n < 1e-4 ? "" : " WRONG");
  } else
#endif
    fmt::print("| | | | | ");
  fmt::print("| {} |\n", repeatable ? "equal" : "DIFFER");
  std::fflush(stdout);
}

// Both encodings of the output as a linear layer makes them of it.
struct Codes {
  QuantSpec by_row, by_column;
  PairSource source;
  Tensor row_codes, row_scales, column_codes, column_scales, none;

  Codes(const Tensor& out, const char* spec) : by_row(parse_spec(spec)), by_column(by_row) {
    const std::int64_t rows = out.size(0) * out.size(1), cols = out.size(2) * out.size(3);
    source.x = out.view({rows, cols});
    row_codes = Tensor::full({rows, cols}, 1, DType::I8, kGpu);
    column_codes = Tensor::full({cols, rows}, 1, DType::I8, kGpu);
    row_scales = Tensor::full(by_row.scale_shape(rows, cols), 1, DType::F32, kGpu);
    column_scales = Tensor::full(by_column.scale_shape(cols, rows), 1, DType::F32, kGpu);
  }
  void encode() {
    if (has_pair(source, by_row, by_column))
      cuda::quant_pair(row_codes, row_scales, column_codes, column_scales, none, none, source,
                       by_row, by_column, {});
    else
      pair_twin(row_codes, row_scales, column_codes, column_scales, none, none, source, by_row,
                by_column, {});
  }
  void attend(Call& c) {
    cuda::quant_attention(c.out, c.lse, row_codes, row_scales, column_codes, column_scales, c.q,
                          c.k, c.v, c.options, by_row, by_column);
  }
  bool equals(const Codes& other) const {
    const auto same = [](const Tensor& a, const Tensor& b) {
      const Tensor x = a.to(kCpu), y = b.to(kCpu);
      return std::memcmp(x.raw(), y.raw(), static_cast<std::size_t>(x.bytes())) == 0;
    };
    return same(row_codes, other.row_codes) && same(row_scales, other.row_scales) &&
           same(column_codes, other.column_codes) && same(column_scales, other.column_scales);
  }
};

void measure_codes(const Row& r, int repeats) {
  const auto normal = [](const Shape& shape, std::uint32_t site) {
    return Tensor::normal(shape, 0, 1, RngKey{5, site}, DType::F32, kGpu).to(DType::BF16);
  };
  const Tensor packed = normal({r.b, r.t, 3, r.h, r.d}, 1), dout = normal({r.b, r.t, r.h, r.d}, 2);
  const char* const spec = "int8:group128:recip";
  Call fused(r, packed, dout), apart(r, packed, dout);
  if (!has_attention_codes({fused.q, fused.k, fused.options}, parse_spec(spec), parse_spec(spec)))
    return;
  Codes codes(fused.out, spec), plain(apart.out, spec);
  codes.attend(fused);
  apart.own_forward();
  plain.encode();
  const bool same = codes.equals(plain) && noise(fused, apart) == 0;
  const double forward = median_ms(repeats, [&] { apart.own_forward(); }),
               with_codes = median_ms(repeats, [&] { codes.attend(fused); }),
               encode = median_ms(repeats, [&] { plain.encode(); }),
               both = median_ms(repeats, [&] { apart.own_forward(), plain.encode(); });
  const std::string name = fmt::format("{}, {}, {}, {}", r.b, r.h, r.t, r.d);
  fmt::print("| {} | {:.3f} | {:.3f} | {:.3f} | {:.3f} ", name, forward, encode, both, with_codes);
#ifdef NIBBLE_HAS_CUDNN
  if (cudnn_attention_refusal({apart.q, apart.k, apart.options}, AttentionPass::Forward).empty())
    fmt::print("| {:.3f} ", median_ms(repeats, [&] { apart.cudnn_forward(), plain.encode(); }));
  else
#endif
    fmt::print("| ");
  fmt::print("| {} |\n", same ? "equal" : "DIFFER");
  std::fflush(stdout);
}

}  // namespace

int main(int argc, char** argv) {
  const int repeats = argc > 1 ? std::atoi(argv[1]) : 15;
  if (cuda::device_count() == 0) {
    fmt::print(stderr, "attention_bench: no GPU here\n");
    return 1;
  }
  fmt::print("{}; ms, T(FL)OP/s of 2 or 7 products; causal where nothing else is said\n\n",
             cuda::device_name(0));
  fmt::print(
      "| B, heads, T, D | own forward | own both | cuDNN forward | cuDNN both | forward, own/cuDNN "
      "| both, own/cuDNN | noise/signal | two runs |\n|---|---|---|---|---|---|---|---|---|\n");
  const Row rows[] = {
      {32, 12, 1024, 64},          {8, 25, 1024, 64},       {8, 32, 2048, 128},
      {8, 12, 1000, 80},           {32, 12, 1024, 64, 0.1}, {8, 32, 2048, 128, 0.1},
      {64, 12, 256, 64},           {2, 12, 4096, 64},       {8, 12, 2048, 64},
      {8, 25, 4096, 64},           {4, 16, 2048, 96},       {32, 12, 1024, 64, 0, false},
      {8, 32, 2048, 128, 0, false}};
  const auto count = static_cast<int>(std::size(rows));
  const int first = argc > 2 ? std::atoi(argv[2]) : 0;
  const int last = argc > 3 ? std::atoi(argv[3]) : count - 1;
  for (int i = std::max(first, 0); i <= std::min(last, count - 1); ++i) measure(rows[i], repeats);
  fmt::print(
      "\nscales of 128\n\n| B, heads, T, D | own forward | encode | one after the other | forward "
      "with "
      "codes | cuDNN, then encode | codes |\n|---|---|---|---|---|---|---|\n");
  for (int i = std::max(first, 0); i <= std::min(last, count - 1); ++i)
    if (rows[i].dropout == 0 && rows[i].causal) measure_codes(rows[i], repeats);
  return 0;
}
