#include "apps/bench/kernels.h"

#include <algorithm>
#include <cmath>

#include "apps/bench/kernel_case.h"
#include "apps/bench/meter.h"
#include "quant/pair_twin.h"
#include "quant/qtensor.h"
#include "quant/source_kernels.h"
#include "tensor/activation_sums.h"
#include "tensor/ops.h"
#include "tensor/residual.h"

namespace nibble::bench {
namespace {

// |got − expected| against half a unit of bf16's last place, and the rounding of f32 before it.
double bf16_error(const Tensor& got, const Tensor& expected) {
  const std::vector<double> g = got.to(kCpu).to_vector<double>(),
                            e = expected.to(kCpu).to_vector<double>();
  if (g.size() != e.size()) return INFINITY;
  double worst = 0;
  for (std::size_t i = 0; i < g.size(); ++i) {
    const double error = std::fabs(g[i] - e[i]) / (std::fabs(e[i]) / 200 + 1e-4);
    worst = worse(worst, error);
  }
  return worst;
}

class Kernels {
 public:
  explicit Kernels(const KernelOptions& o)
      : device_(o.device),
        tokens_(o.tokens),
        width_(o.width),
        x_(normal({o.tokens, o.width}, 1)),
        dy_(normal({o.tokens, o.width}, 2)) {
    copy();
    elementwise();
    quantizers();
    pairs();
    sources();
    classifier(o.vocab);
    for (Case& c : update_cases(o)) cases_.push_back(std::move(c));
  }
  std::vector<Case>& cases() { return cases_; }

 private:
  Tensor normal(const Shape& shape, std::uint32_t site, DType dtype = DType::BF16) const {
    return normal_numbers(shape, site, dtype, device_);
  }
  static std::int64_t checked_rows(const QTensor& q) { return std::min(kChecked, q.rows()); }
  double n() const { return static_cast<double>(tokens_ * width_); }
  // A case whose result has its row i from row i of the inputs.
  void by_rows(const char* name, double bytes, const std::vector<Tensor>& in,
               const std::function<Tensor(const std::vector<Tensor>&)>& op) {
    auto out = std::make_shared<Tensor>();
    cases_.push_back({name, in[0].shape(), bytes, [=] { *out = op(in); },
                      [=] {
                        std::vector<Tensor> part;
                        for (const Tensor& t : in)
                          part.push_back(t.rank() == 2 ? head(t) : t.to(kCpu).to(DType::F64));
                        return bf16_error(head(*out), op(part));
                      }});
  }

  void copy() {
    Tensor y = Tensor::empty({tokens_, width_}, DType::BF16, device_);
    cases_.push_back({"copy", x_.shape(), 4 * n(), [=, x = x_]() mutable { y.copy_from(x); },
                      [=, x = x_] { return bf16_error(head(y), head(x)); }});
  }
  void elementwise() {
    const Tensor gain = normal({width_}, 3), bias = normal({width_}, 4);
    by_rows("layer norm", 4 * n() + 8.0 * static_cast<double>(tokens_), {x_, gain, bias},
            [](const auto& in) { return ops::layer_norm(in[0], in[1], in[2]).y; });
    auto both = std::make_shared<ops::AddedNorm>();
    cases_.push_back({"add and layer norm", x_.shape(),
                      8 * n() + 8.0 * static_cast<double>(tokens_),
                      [=, x = x_, r = dy_] { *both = ops::add_layer_norm(x, r, gain, bias); },
                      [=, x = x_, r = dy_] {
                        const Tensor y = ops::layer_norm(ops::add(x, r), gain, bias).y;
                        return bf16_error(head(both->norm.y), head(y));
                      }});
    layer_norm_backward(gain);
    by_rows("add", 6 * n(), {x_, dy_}, [](const auto& in) { return ops::add(in[0], in[1]); });
    by_rows("gelu", 4 * n(), {x_}, [](const auto& in) { return ops::gelu(in[0]); });
    by_rows("gelu backward", 6 * n(), {dy_, x_},
            [](const auto& in) { return ops::gelu_backward(in[0], in[1], ops::Gelu::Tanh); });
    by_rows("gelu backward, column sums", 6 * n(), {dy_, x_}, [](const auto& in) {
      const bool checks = in[1].dtype() == DType::F64;
      return checks ? ops::gelu_backward(in[0], in[1], ops::Gelu::Tanh)
                    : ops::gelu_backward_sums(in[0], in[1]).dx;
    });
  }

  // dx, and dgamma and dbeta, which are added to f32 gradients; then dx on top of x's gradient.
  void layer_norm_backward(const Tensor& gain) {
    const auto pass = [](const Tensor& dy, const Tensor& x, const Tensor& gamma, DType sums,
                         const Tensor& before) {
      const ops::NormResult norm = ops::layer_norm(x, gamma, Tensor());
      auto dx = std::make_shared<Tensor>(Tensor::empty(x.shape(), x.dtype(), x.device()));
      auto dgamma = std::make_shared<Tensor>(Tensor::zeros(gamma.shape(), sums, x.device()));
      auto dbeta = std::make_shared<Tensor>(dgamma->clone());
      return std::pair{
          dx, [=, m = norm.mean, r = norm.rstd] {
            if (before.defined())
              NIBBLE_DISPATCH(x.device(), add_layer_norm_backward(*dx, *dgamma, *dbeta, dy, x,
                                                                  gamma, m, r, before, true));
            else
              NIBBLE_DISPATCH(x.device(),
                              layer_norm_backward(*dx, *dgamma, *dbeta, dy, x, gamma, m, r));
          }};
    };
    const double statistics = 8.0 * static_cast<double>(tokens_);
    const auto [dx, run] = pass(dy_, x_, gain, DType::F32, {});
    cases_.push_back({"layer norm backward", x_.shape(), 6 * n() + statistics, run,
                      [=, dx = dx, dy = dy_, x = x_] {
                        const auto [expected, once] =
                            pass(head(dy), head(x), gain.to(kCpu).to(DType::F64), DType::F64, {});
                        once();
                        return bf16_error(head(*dx), *expected);
                      }});
    const auto [sum, add] = pass(dy_, x_, gain, DType::F32, x_);
    cases_.push_back({"layer norm backward, added to a gradient", x_.shape(), 8 * n() + statistics,
                      add, [=, dx = dx, run = run, sum = sum, x = x_] {
                        run();
                        return bf16_error(head(*sum), head(ops::add(x, *dx)));
                      }});
  }

  // Codes and scales hold x within half a step, or a whole one when rounding is a draw.
  void quantizers() {
    struct Form {
      const char *name, *spec;
      bool transposed = false, wide = false;
    };
    for (const Form& f :
         {Form{"quantize by row", "int8:row"},
          Form{"quantize by row, from f32", "int8:row", false, true},
          Form{"quantize by row, stochastic", "int8:row:sr"},
          Form{"quantize by row, e4m3", "e4m3:row"}, Form{"quantize by 128", "int8:group128"},
          Form{"quantize by 128, stochastic", "int8:group128:sr"},
          Form{"quantize by 128 x 128", "int8:block128"},
          Form{"quantize by 256 tokens, transposed", "int8:group256", true},
          Form{"quantize by 256 tokens, transposed, stochastic", "int8:group256:sr", true}}) {
      const QuantSpec spec = parse_spec(f.spec);
      const Tensor from = f.wide ? x_.to(DType::F32) : x_;
      auto q = std::make_shared<std::optional<QTensor>>();
      const std::int64_t rows = f.transposed ? width_ : tokens_,
                         cols = f.transposed ? tokens_ : width_;
      const double scales = 4.0 * static_cast<double>(spec.scale_shape(rows, cols).numel());
      cases_.push_back({f.name, x_.shape(), (f.wide ? 5 : 3) * n() + scales,
                        [=, t = f.transposed] {
                          q->emplace(quantize(from, spec, {7, 8}, t));
                        },
                        [=, t = f.transposed] { return code_error(**q, from, t); }});
    }
    auto codes = std::make_shared<QTensor>(quantize(x_, parse_spec("int8:row")));
    auto decoded = std::make_shared<Tensor>();
    cases_.push_back({"decode by row", x_.shape(), 3 * n() + 4.0 * static_cast<double>(tokens_),
                      [=] { *decoded = dequantize(*codes, DType::BF16); },
                      [=] {
                        const QTensor& c = *codes;
                        const Tensor scales = c.scales().slice(0, 0, checked_rows(c)).to(kCpu);
                        return bf16_error(head(*decoded),
                                          ops::mul(head(c.payload()), scales.to(DType::F64)));
                      }});
    auto turned = std::make_shared<Tensor>(Tensor::empty({width_, tokens_}, DType::I8, device_));
    cases_.push_back(
        {"transpose codes", x_.shape(), 2 * n(),
         [=, d = device_] { NIBBLE_DISPATCH(d, quant_transpose(*turned, codes->payload())); },
         [=] {
           const Tensor back = turned->slice(0, 0, std::min(kChecked, turned->size(0)));
           const Tensor from =
               codes->payload().to(kCpu).t().slice(0, 0, std::min(kChecked, turned->size(0)));
           return back.to(kCpu).to_vector<float>() == from.to_vector<float>() ? 0.0 : 2.0;
         }});
  }
  // Both encodings from one read, with what makes the matrix.
  void pairs() {
    using Kind = PairSource::Kind;
    struct Form {
      const char* name;
      Kind kind;
      const char* noise;
      double bytes;  // an element
      bool sums;
      std::int64_t widths = 1;
    };
    for (const Form& f : {Form{"pair", Kind::Plain, "", 4, false},
                          Form{"pair, stochastic, column sums", Kind::Plain, ":sr", 4, true},
                          Form{"pair, stochastic, column sums", Kind::Plain, ":sr", 4, true, 3},
                          Form{"pair of gelu", Kind::Gelu, "", 4, false, 4},
                          Form{"pair of gelu backward, stochastic, column sums", Kind::GeluBackward,
                               ":sr", 6, true, 4}}) {
      const QuantSpec row = parse_spec(std::string("int8:row:recip") + f.noise),
                      column = parse_spec(std::string("int8:group256:recip") + f.noise);
      const std::int64_t cols = f.widths * width_;
      PairSource s;
      s.kind = f.kind;
      s.x = f.widths == 1 ? x_ : normal({tokens_, cols}, 7);
      if (f.kind == Kind::GeluBackward) s.dy = normal(s.x.shape(), 8);
      if (!has_pair(s, row, column)) continue;
      auto q = std::make_shared<QTensor>(QTensor::empty(row, tokens_, cols, device_));
      auto t = std::make_shared<QTensor>(QTensor::empty(column, cols, tokens_, device_));
      const Tensor sums = f.sums ? Tensor::empty({cols}, DType::F32, device_) : Tensor();
      cases_.push_back({f.name, s.x.shape(), f.bytes * static_cast<double>(s.x.numel()),
                        [=, d = device_] {
                          Tensor none, to = sums;
                          NIBBLE_DISPATCH(
                              d, quant_pair(q->payload(), q->scales(), t->payload(), t->scales(),
                                            none, to, s, row, column, {7, 8}));
                        },
                        [=] {
                          const Tensor y = pair_matrix(s, {});
                          return std::max({code_error(*q, y, false), code_error(*t, y, true),
                                           sums.defined() ? sum_error(sums, y) : 0.0});
                        }});
    }
  }
  // The order of additions is column_sum's: no bit differs.
  static double sum_error(const Tensor& sums, const Tensor& x) {
    Tensor expected = Tensor::empty(sums.shape(), DType::F32, sums.device());
    ops::column_sum_into(expected, x, false);
    return expected.to(kCpu).to_vector() == sums.to(kCpu).to_vector() ? 0.0 : INFINITY;
  }
  // What a layer norm or GELU makes, encoded along one direction as it is made.
  void sources() {
    using Kind = PairSource::Kind;
    struct Form {
      const char* name;
      Kind kind;
      bool columns;
      double bytes;  // an element
    };
    for (const Form& f : {Form{"layer norm, codes by row", Kind::LayerNorm, false, 3},
                          Form{"add and layer norm, codes by row", Kind::AddLayerNorm, false, 7},
                          Form{"gelu, codes by row", Kind::Gelu, false, 3},
                          Form{"codes by 256 tokens of a layer norm", Kind::LayerNorm, true, 3},
                          Form{"codes by 256 tokens of gelu", Kind::Gelu, true, 3}}) {
      const QuantSpec by_row = parse_spec("int8:row:recip"),
                      by_column = parse_spec("int8:group256:recip");
      const QuantSpec spec = f.columns ? by_column : by_row;
      PairSource s;
      s.kind = f.kind;
      s.x = x_;
      s.gamma = normal({width_}, 3);
      s.beta = normal({width_}, 4);
      s.epsilon = 1e-5;
      s.mean = Tensor::empty({tokens_}, DType::F32, device_);
      s.rstd = s.mean.clone();
      if (f.kind == Kind::AddLayerNorm) {
        s.residual = dy_;
        s.sum = Tensor::empty(x_.shape(), DType::BF16, device_);
      }
      if (!(f.columns              ? has_source_columns(s, spec)
            : f.kind == Kind::Gelu ? has_pair(s, by_row, by_column)
                                   : has_norm_rows(s, spec)))
        continue;
      if (f.columns) pair_matrix(s, {});  // mean and rstd
      auto q = std::make_shared<QTensor>(QTensor::empty(spec, f.columns ? width_ : tokens_,
                                                        f.columns ? tokens_ : width_, device_));
      cases_.push_back(
          {f.name, x_.shape(), f.bytes * n(),
           [=, d = device_, columns = f.columns] {
             Tensor none;
             if (columns)
               NIBBLE_DISPATCH(d, quant_source_columns(q->payload(), q->scales(), s, spec, {7, 8}));
             else if (s.kind == Kind::Gelu)
               NIBBLE_DISPATCH(d, quant_pair(q->payload(), q->scales(), none, none, none, none, s,
                                             by_row, by_column, {7, 8}));
             else
               NIBBLE_DISPATCH(d, quant_norm_rows(q->payload(), q->scales(), s, spec));
           },
           [=, columns = f.columns] { return code_error(*q, pair_matrix(s, {}), columns); }});
    }
  }

  void classifier(std::int64_t vocab) {
    const std::int64_t rows = std::min<std::int64_t>(tokens_, 8192);
    const Tensor logits = normal({rows, vocab}, 5);
    const Tensor targets = Tensor::uniform({rows}, 0, static_cast<double>(vocab), RngKey{41, 6})
                               .to(DType::I32)
                               .to(device_);
    const double size = static_cast<double>(rows * vocab);
    const std::int64_t k = std::min(kChecked, rows);
    const auto some_targets = [=] { return targets.slice(0, 0, k).to(kCpu); };
    auto found = std::make_shared<ops::CrossEntropy>();
    cases_.push_back({"cross-entropy, forward", logits.shape(), 2 * size,
                      [=] { *found = ops::cross_entropy(logits, targets); },
                      [=] {
                        return bf16_error(found->lse.slice(0, 0, k),
                                          ops::cross_entropy(head(logits), some_targets()).lse);
                      }});
    const Tensor scale = Tensor::full({1}, 1.0, DType::F32, device_);
    const Tensor known = ops::cross_entropy(logits, targets).lse;
    const auto gradient_error = [=](const Tensor& d) {
      Tensor expected = head(logits);
      ops::cross_entropy_gradient(expected, some_targets(), Tensor::full({1}, 1.0, DType::F64));
      return bf16_error(head(d), expected);
    };
    auto d = std::make_shared<Tensor>(Tensor::empty({rows, vocab}, DType::BF16, device_));
    cases_.push_back({"cross-entropy, backward", logits.shape(), 4 * size,
                      [=] { ops::cross_entropy_backward(*d, logits, targets, known, scale); },
                      [=] { return gradient_error(*d); }});
    cases_.push_back(
        {"cross-entropy, both at once", logits.shape(), 4 * size,
         [=] { ops::cross_entropy_gradient(*d, targets, scale); },  // of whatever *d is
         [=] {
           Tensor fresh = logits.clone();
           ops::cross_entropy_gradient(fresh, targets, scale);
           return gradient_error(fresh);
         }});
    const QuantSpec row = parse_spec("int8:row:recip:sr"),
                    column = parse_spec("int8:group256:recip:sr");
    if (!has_dlogits_pair(logits, row, column)) return;
    auto q = std::make_shared<QTensor>(QTensor::empty(row, rows, vocab, device_));
    auto t = std::make_shared<QTensor>(QTensor::empty(column, vocab, rows, device_));
    auto losses = std::make_shared<Tensor>(Tensor::empty({rows}, DType::F32, device_));
    cases_.push_back({"dlogits as int8, both ways, stochastic", logits.shape(), 4 * size,
                      [=, device = device_] {
                        NIBBLE_DISPATCH(device,
                                        quant_dlogits(q->payload(), q->scales(), t->payload(),
                                                      t->scales(), *losses, logits, targets, scale,
                                                      true, row, column, {7, 9}));
                      },
                      [=] {
                        Tensor fresh = logits.clone();
                        ops::cross_entropy_gradient(fresh, targets, scale);
                        return std::max(code_error(*q, fresh, false), code_error(*t, fresh, true));
                      }});
  }

  Device device_;
  std::int64_t tokens_, width_;
  Tensor x_, dy_;
  std::vector<Case> cases_;
};

}  // namespace

std::vector<KernelRow> bench_kernels(const KernelOptions& o) {
  NIBBLE_CHECK(o.tokens > 0 && o.width > 0 && o.vocab > 0 && o.tokens % 256 == 0, "bench",
               "got {} tokens, width {}, vocabulary {}, expected positive extents, tokens a "
               "multiple of 256",
               o.tokens, o.width, o.vocab);
  Meter meter(o.device, o.repeats, o.budget, std::int64_t{1} << (o.device.is_cuda() ? 28 : 25));
  Kernels kernels(o);
  std::vector<KernelRow> rows;
  double copy = 0;
  for (Case& c : kernels.cases()) {
    if (c.name != "copy" && c.name.find(o.filter) == std::string::npos) continue;
    KernelRow row{.name = c.name, .shape = to_string(c.shape), .bytes = c.bytes};
    c.run();
    row.error = c.error();
    if (!row.wrong()) {
      row.seconds = meter.measure(2, [&](int) { c.run(); }).median;
      if (c.name == "copy") copy = c.bytes / row.seconds;
      row.share = copy > 0 ? c.bytes / row.seconds / copy : 0;
    }
    rows.push_back(row);
    if (o.each) o.each(row);
    c = {};  // its memory is the next one's
  }
  return rows;
}

}  // namespace nibble::bench
