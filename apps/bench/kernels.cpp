#include "apps/bench/kernels.h"

#include <algorithm>
#include <cmath>

#include "apps/bench/meter.h"
#include "optim/adam.h"
#include "optim/encodings.h"
#include "quant/pair_twin.h"
#include "quant/qtensor.h"
#include "tensor/ops.h"
#include "tensor/recorded_work.h"

namespace nibble::bench {
namespace {

constexpr std::int64_t kChecked = 8;  // rows that are compared with f64

struct Case {
  std::string name;
  Shape shape;
  double bytes;
  std::function<void()> run;
  std::function<double()> error;  // after a run
};

// NaN is the worst, and stays.
double worse(double worst, double error) {
  return std::isnan(worst) || error <= worst ? worst : error;
}

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
    classifier(o.vocab);
    updates(o.vocab);
  }
  std::vector<Case>& cases() { return cases_; }

 private:
  Tensor normal(const Shape& shape, std::uint32_t site, DType dtype = DType::BF16) const {
    return Tensor::normal(shape, 0, 1, RngKey{41, site}, DType::F32, device_).to(dtype);
  }
  static Tensor head(const Tensor& x) {
    return x.slice(0, 0, std::min(kChecked, x.size(0))).to(kCpu).to(DType::F64);
  }
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
    layer_norm_backward(gain);
    by_rows("add", 6 * n(), {x_, dy_}, [](const auto& in) { return ops::add(in[0], in[1]); });
    by_rows("gelu", 4 * n(), {x_}, [](const auto& in) { return ops::gelu(in[0]); });
    by_rows("gelu backward", 6 * n(), {dy_, x_},
            [](const auto& in) { return ops::gelu_backward(in[0], in[1], ops::Gelu::Tanh); });
  }

  // dx, and dgamma and dbeta, which are added to f32 gradients.
  void layer_norm_backward(const Tensor& gain) {
    const auto pass = [](const Tensor& dy, const Tensor& x, const Tensor& gamma, DType sums) {
      const ops::NormResult norm = ops::layer_norm(x, gamma, Tensor());
      auto dx = std::make_shared<Tensor>(Tensor::empty(x.shape(), x.dtype(), x.device()));
      auto dgamma = std::make_shared<Tensor>(Tensor::zeros(gamma.shape(), sums, x.device()));
      auto dbeta = std::make_shared<Tensor>(dgamma->clone());
      return std::pair{dx, [=] {
                         NIBBLE_DISPATCH(x.device(),
                                         layer_norm_backward(*dx, *dgamma, *dbeta, dy, x, gamma,
                                                             norm.mean, norm.rstd));
                       }};
    };
    const auto [dx, run] = pass(dy_, x_, gain, DType::F32);
    cases_.push_back({"layer norm backward", x_.shape(),
                      6 * n() + 8.0 * static_cast<double>(tokens_), run,
                      [=, dx = dx, dy = dy_, x = x_] {
                        const auto [expected, once] =
                            pass(head(dy), head(x), gain.to(kCpu).to(DType::F64), DType::F64);
                        once();
                        return bf16_error(head(*dx), *expected);
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
                          Form{"pair of layer norm", Kind::LayerNorm, "", 4, false},
                          Form{"pair of add and layer norm", Kind::AddLayerNorm, "", 8, false},
                          Form{"pair of gelu", Kind::Gelu, "", 4, false, 4},
                          Form{"pair of gelu backward, stochastic, column sums", Kind::GeluBackward,
                               ":sr", 6, true, 4}}) {
      const QuantSpec row = parse_spec(std::string("int8:row:recip") + f.noise),
                      column = parse_spec(std::string("int8:group256:recip") + f.noise);
      const std::int64_t cols = f.widths * width_;
      PairSource s;
      s.kind = f.kind;
      s.x = f.widths == 1 ? x_ : normal({tokens_, cols}, 7);
      if (f.kind == Kind::LayerNorm || f.kind == Kind::AddLayerNorm) {
        s.gamma = normal({width_}, 3);
        s.beta = normal({width_}, 4);
        s.epsilon = 1e-5;
        s.mean = Tensor::empty({tokens_}, DType::F32, device_);
        s.rstd = s.mean.clone();
      }
      if (f.kind == Kind::AddLayerNorm) {
        s.residual = dy_;
        s.sum = Tensor::empty(x_.shape(), DType::BF16, device_);
      }
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
  static std::int64_t checked_rows(const QTensor& q) { return std::min(kChecked, q.rows()); }
  static double code_error(const QTensor& q, const Tensor& x, bool transposed) {
    const Tensor back = dequantize(transposed ? q.t() : q).to(kCpu);
    const Tensor scales = q.scales().to(kCpu);
    const std::vector<float> rows = x.to(kCpu).to_vector();
    const std::vector<float> got = back.to_vector(), s = scales.to_vector();
    const std::int64_t cols = x.size(1);
    const Tile tile = q.spec().resolve(q.rows(), q.cols());
    const double step = q.spec().rounding == Rounding::Stochastic ? 1.0 : 0.5;
    double worst = 0;
    for (std::int64_t i = 0; i < x.numel(); i += 37) {
      const std::int64_t r = transposed ? i % cols : i / cols, c = transposed ? i / cols : i % cols;
      const double scale =
          s[static_cast<std::size_t>(r / tile.rows * scales.size(1) + c / tile.cols)];
      const double value = rows[static_cast<std::size_t>(i)];
      // Small floats (e4m3): half of the last of four digits, or of the subnormals' spacing.
      const double allowed = q.spec().format.is_integer()
                                 ? step * scale * 1.001
                                 : std::fabs(value) / 16 * 1.001 + scale / 1024;
      const double error =
          std::fabs(value - static_cast<double>(got[static_cast<std::size_t>(i)])) / allowed;
      worst = worse(worst, error);
    }
    return worst;
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
                        NIBBLE_DISPATCH(
                            device,
                            quant_dlogits(q->payload(), q->scales(), t->payload(), t->scales(),
                                          *losses, logits, targets, scale, row, column, {7, 9}));
                      },
                      [=] {
                        Tensor fresh = logits.clone();
                        ops::cross_entropy_gradient(fresh, targets, scale);
                        return std::max(code_error(*q, fresh, false), code_error(*t, fresh, true));
                      }});
  }

  // The parameters of a GPT-2 with random values and gradients, and AdamW over them.
  struct Model {
    std::vector<std::unique_ptr<Parameter>> own;
    std::vector<Parameter*> all;
    std::unique_ptr<AdamW> optimizer;
    StepState state;
    Tensor before, gradient;  // of a few rows of the first one
    std::unique_ptr<RecordedWork> recorded;
    int runs = 0;
    explicit Model(Device device) : state(device) {}
    // As a training step does: on a GPU recorded after the first time.
    void run(const std::function<void()>& work) {
      for (Parameter* p : all) p->set_has_grad(true);
      if (runs++ == 0 || !RecordedWork::supported(state.device())) {
        work();
        return;
      }
      if (!recorded) {
        recorded = std::make_unique<RecordedWork>(state.device());
        recorded->record(work);
      }
      recorded->replay();
    }
  };
  std::shared_ptr<Model> model_of(const std::vector<Shape>& shapes,
                                  const AdamOptions& options) const {
    auto m = std::make_shared<Model>(device_);
    for (const Shape& shape : shapes) {
      const auto site = static_cast<std::uint32_t>(100 + 2 * m->own.size());
      m->own.push_back(std::make_unique<Parameter>(normal(shape, site, DType::F32)));
      Parameter* p = m->own.back().get();
      p->name = fmt::format("parameter {}", m->all.size());
      p->grad_buffer().copy_from(normal(shape, site + 1, DType::F32));
      m->all.push_back(p);
    }
    m->before = head(m->all.front()->storage());
    m->gradient = head(m->all.front()->grad());
    m->state.begin(0, 1e-3);
    m->optimizer = std::make_unique<AdamW>(
        std::vector<ParameterGroup>{{.parameters = m->all, .weight_decay = 0.1}}, options);
    return m;
  }
  // Every update has the first one's sign and at most its size.
  static double update_error(const Model& m) {
    const std::vector<double> now = head(m.all.front()->storage()).to_vector<double>(),
                              was = m.before.to_vector<double>(),
                              g = m.gradient.to_vector<double>();
    const auto steps = static_cast<double>(m.optimizer->updates());
    double worst = 0;
    for (std::size_t i = 0; i < now.size(); ++i) {
      const double moved = now[i] - was[i] * std::pow(1 - 1e-4, steps);
      if (std::fabs(g[i]) < 0.5) continue;  // small moments are coarse
      const double share = -moved / (g[i] > 0 ? 1e-3 : -1e-3) / steps;
      const double error = std::fabs(share - 1) / 0.5;
      worst = worse(worst, error);
    }
    return worst;
  }
  static AdamOptions adam_options(const std::string& moments) {
    AdamOptions options;
    options.m.codec = find_codec(moments);
    // Second moments are never negative.
    options.v.codec = find_codec(moments == "dyn8:group256" ? "dynu8:group256" : moments);
    return options;
  }
  // Whole updates: decode, update, encode. The parameters are there from the first run on.
  void adam(const std::string& what, const std::vector<Shape>& shapes, const std::string& moments) {
    const AdamOptions options = adam_options(moments);
    double bytes = 0;
    std::int64_t numel = 0;
    for (const Shape& shape : shapes) {
      const std::int64_t cols = shape[-1], rows = shape.numel() / cols;
      numel += shape.numel();
      for (const StateSlot* slot : {&options.m, &options.v}) {
        const bool encoded = shape.numel() >= slot->min_elements;
        const CodecPtr codec = encoded ? slot->codec : dense_codec();
        bytes += 2 * static_cast<double>(codec->make(rows, cols, kMeta).bytes());
      }
    }
    bytes += 12 * static_cast<double>(numel);
    auto m = std::make_shared<std::shared_ptr<Model>>();
    cases_.push_back({fmt::format("AdamW{}, moments {}", what, moments),
                      shapes.size() == 1 ? shapes.front() : Shape{numel}, bytes,
                      [=, this] {
                        if (!*m) *m = model_of(shapes, options);
                        (*m)->run([&] { (*m)->optimizer->step((*m)->state); });
                      },
                      [=] { return update_error(**m); }});
  }
  void norm(const std::string& what, const std::vector<Shape>& shapes) {
    std::int64_t numel = 0;
    for (const Shape& shape : shapes) numel += shape.numel();
    auto m = std::make_shared<std::shared_ptr<Model>>();
    cases_.push_back({"gradient norm" + what, Shape{numel}, 4 * static_cast<double>(numel),
                      [=, this] {
                        if (!*m) *m = model_of(shapes, {});
                        (*m)->run([&] { queue_clip_gradients((*m)->all, 1, (*m)->state); });
                      },
                      [=] {
                        double squares = 0;
                        for (const Parameter* p : (*m)->all)
                          squares += ops::sum_squares(p->grad()).item();
                        return std::fabs((*m)->state.read().norm / std::sqrt(squares) - 1) / 1e-12;
                      }});
  }
  // Of the linear layers, by row and turned, from f32.
  void encodings(const std::string& what, std::vector<Shape> shapes) {
    std::erase_if(shapes, [](const Shape& s) { return s.rank() < 2; });
    shapes.erase(shapes.begin(), shapes.begin() + 2);
    std::int64_t numel = 0;
    for (const Shape& shape : shapes) numel += shape.numel();
    const QuantSpec spec = parse_spec("int8:row:recip");
    auto m = std::make_shared<std::shared_ptr<Model>>();
    const auto first_run = [=, this] {
      *m = model_of(shapes, {});
      for (Parameter* p : (*m)->all)
        for (const bool transposed : {false, true}) (void)p->encoded(spec, transposed, {});
      hold_encodings((*m)->all);
      keep_encodings((*m)->all);
    };
    cases_.push_back({"encodings of weights" + what, Shape{numel}, 6 * static_cast<double>(numel),
                      [=] {
                        if (!*m) first_run();
                        (*m)->run([&] { refresh_encodings((*m)->all); });
                      },
                      [=] {
                        Parameter& p = *(*m)->all.back();
                        double worst = 0;
                        for (const bool t : {false, true})
                          worst = worse(worst, code_error(p.encoded(spec, t, {}), p.storage(), t));
                        return worst;
                      }});
  }
  static std::vector<Shape> gpt2(std::int64_t layers, std::int64_t c, std::int64_t vocab) {
    std::vector<Shape> shapes{{vocab, c}, {1024, c}, {c}, {c}};
    for (std::int64_t i = 0; i < layers; ++i)
      for (const Shape& s :
           {Shape{c}, Shape{c}, Shape{3 * c, c}, Shape{3 * c}, Shape{c, c}, Shape{c}, Shape{c},
            Shape{c}, Shape{4 * c, c}, Shape{4 * c}, Shape{c, 4 * c}, Shape{c}})
        shapes.push_back(s);
    return shapes;
  }
  // One parameter, then those of GPT-2 124M and 1.56B at a width of 768; the latter on a GPU alone,
  // and no wider.
  void updates(std::int64_t vocab) {
    for (const char* moments : {"f32", "dyn8:group256", "int4:group128:packed:sr"})
      adam("", {{4 * width_, width_ * 16}}, moments);
    const std::vector<Shape> small = gpt2(12, width_, vocab);
    for (const char* moments : {"f32", "dyn8:group256"}) adam(", 12 layers", small, moments);
    norm(", 12 layers", small);
    encodings(", 12 layers", small);
    if (!device_.is_cuda() || width_ > 768) return;  // at 1600 wide: 25 GB
    const std::vector<Shape> large = gpt2(48, width_ * 25 / 12, vocab);
    adam(", 48 layers", large, "dyn8:group256");
    norm(", 48 layers", large);
    encodings(", 48 layers", large);
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
