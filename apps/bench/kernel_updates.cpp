// Benchmarks over all parameters of a model: updates, the gradient norm, encodings of new weights.
#include "apps/bench/kernel_case.h"
#include "optim/adam.h"
#include "optim/encodings.h"
#include "tensor/recorded_work.h"

namespace nibble::bench {

double code_error(const QTensor& q, const Tensor& x, bool transposed) {
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

namespace {

class Updates {
 public:
  explicit Updates(const KernelOptions& o) : device_(o.device), width_(o.width) {
    updates(o.vocab);
  }
  std::vector<Case>& cases() { return cases_; }

 private:
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
  // `coded`: matrices are int8 with a scale a row.
  static std::shared_ptr<Model> model_of(Device device, const std::vector<Shape>& shapes,
                                         const AdamOptions& options, bool coded = false) {
    const auto normal = [&](const Shape& shape, std::uint32_t site) {
      return normal_numbers(shape, site, DType::F32, device);
    };
    auto m = std::make_shared<Model>(device);
    for (const Shape& shape : shapes) {
      const auto site = static_cast<std::uint32_t>(100 + 2 * m->own.size());
      m->own.push_back(std::make_unique<Parameter>(normal(shape, site)));
      Parameter* p = m->own.back().get();
      p->name = fmt::format("parameter {}", m->all.size());
      p->grad_buffer().copy_from(normal(shape, site + 1));
      if (coded) set_weight_storage_int8(*p);
      m->all.push_back(p);
    }
    m->before = head(m->all.front()->dense());
    m->gradient = head(m->all.front()->grad());
    m->state.begin(0, 1e-3);
    m->optimizer = std::make_unique<AdamW>(
        std::vector<ParameterGroup>{{.parameters = m->all, .weight_decay = 0.1}}, options);
    return m;
  }
  // Every update has the first one's sign and at most its size; codes have it on average.
  static double update_error(const Model& m) {
    const std::vector<double> now = head(m.all.front()->dense()).to_vector<double>(),
                              was = m.before.to_vector<double>(),
                              g = m.gradient.to_vector<double>();
    const auto steps = static_cast<double>(m.optimizer->updates());
    double worst = 0, sum = 0, count = 0;
    for (std::size_t i = 0; i < now.size(); ++i) {
      const double moved = now[i] - was[i] * std::pow(1 - 1e-4, steps);
      if (std::fabs(g[i]) < 0.5) continue;  // small moments are coarse
      const double share = -moved / (g[i] > 0 ? 1e-3 : -1e-3) / steps;
      const double error = std::fabs(share - 1) / 0.5;
      worst = worse(worst, error);
      sum += share, ++count;
    }
    return m.all.front()->is_quantized() ? std::fabs(sum / count - 1) / 0.5 : worst;
  }
  static AdamOptions adam_options(const std::string& moments) {
    AdamOptions options;
    options.m.codec = find_codec(moments);
    // Second moments are never negative, and `int8` rounds them so.
    options.v.codec = find_codec(moments == "dyn8:group256" ? "dynu8:group256:sr:recip" : moments);
    return options;
  }
  // Whole updates: decode, update, encode. The parameters are there from the first run on.
  void adam(const std::string& what, const std::vector<Shape>& shapes, const std::string& moments,
            bool coded = false) {
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
    bytes += (coded ? 6 : 12) * static_cast<double>(numel);  // row scales are few
    auto m = std::make_shared<std::shared_ptr<Model>>();
    cases_.push_back({fmt::format("AdamW{}, moments {}", what, moments),
                      shapes.size() == 1 ? shapes.front() : Shape{numel}, bytes,
                      [=, device = device_] {
                        if (!*m) *m = model_of(device, shapes, options, coded);
                        (*m)->run([&] { (*m)->optimizer->step((*m)->state); });
                      },
                      [=] { return update_error(**m); }});
  }
  void norm(const std::string& what, const std::vector<Shape>& shapes) {
    std::int64_t numel = 0;
    for (const Shape& shape : shapes) numel += shape.numel();
    auto m = std::make_shared<std::shared_ptr<Model>>();
    cases_.push_back({"gradient norm" + what, Shape{numel}, 4 * static_cast<double>(numel),
                      [=, device = device_] {
                        if (!*m) *m = model_of(device, shapes, {});
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
    const auto first_run = [=, device = device_] {
      *m = model_of(device, shapes, {});
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
    adam(", 12 layers of int8", small, "dyn8:group256", true);
    norm(", 12 layers", small);
    encodings(", 12 layers", small);
    if (!device_.is_cuda() || width_ > 768) return;  // at 1600 wide: 25 GB
    const std::vector<Shape> large = gpt2(48, width_ * 25 / 12, vocab);
    adam(", 48 layers", large, "dyn8:group256");
    norm(", 48 layers", large);
    encodings(", 48 layers", large);
  }

  Device device_;
  std::int64_t width_;
  std::vector<Case> cases_;
};

}  // namespace

std::vector<Case> update_cases(const KernelOptions& options) {
  return std::move(Updates(options).cases());
}

}  // namespace nibble::bench
