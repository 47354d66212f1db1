#include "apps/bench/gemm.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <optional>
#include <string_view>

#include "apps/bench/meter.h"
#include "quant/product_route.h"
#include "quant/qtensor.h"
#include "tensor/ops.h"

namespace nibble::bench {
namespace {

constexpr const char* kOp = "bench";

struct Form {
  const char* name;
  const char *a, *b;  // specs of [m, k] and [n, k]
  // What a sum may err by, relative to Σ|a·b|: integers are exact but for their scaling in f32, and
  // Hopper's fp8 sums have 14 bits (quant/kernels.h).
  double error;
};
constexpr std::array<Form, 7> kForms{{
    {"int8_row", "int8:row", "int8:row", 1e-6},
    {"int8_group128", "int8:group128", "int8:block128", 1e-6},
    {"int8_group256", "int8:group256", "int8:group256", 1e-6},
    {"int4_row", "int4:row:packed", "int8:row", 1e-6},
    {"fp8_tensor", "e4m3:tensor", "e4m3:tensor", 1e-3},
    {"fp8_row", "e4m3:row", "e4m3:row", 1e-3},
    {"fp8_block128", "e4m3:group128", "e4m3:block128", 1e-3},
}};

struct Set {
  const char* name;
  const char* shapes;
};
constexpr std::array<Set, 7> kSets{{
    // Those of other libraries' measured ceilings, from GPT-2's layers to large squares.
    {"ceilings",
     "4096,4096,4096;8192,8192,8192;32768,2304,768;32768,768,768;32768,3072,768;32768,768,3072;"
     "768,3072,32768;32768,6400,1600;32768,1600,6400;1600,6400,32768;32768,4096,4096;"
     "32768,50304,768"},
    {"gpt2",
     "32768,2304,768;32768,768,768;32768,3072,768;32768,768,3072;768,768,32768;2304,768,32768;"
     "3072,768,32768;768,3072,32768;32768,50304,768"},
    {"gpt2-xl",
     "8192,4800,1600;8192,1600,1600;8192,6400,1600;8192,1600,6400;1600,1600,8192;4800,1600,8192;"
     "6400,1600,8192;1600,6400,8192"},
    // fprop, dgrad and wgrad of GPT-2's classifier over 32,768 tokens, and over a chunk of them.
    {"lm_head",
     "32768,50304,768;32768,768,50304;50304,768,32768;4096,50304,768;4096,768,50304;"
     "50304,768,4096"},
    {"square", "1024,1024,1024;2048,2048,2048;4096,4096,4096;8192,8192,8192"},
    {"layouts",
     "1024,1024,1024:nn;1024,1024,1024:nt;1024,1024,1024:tn;2048,2048,2048:nn;2048,2048,2048:nt;"
     "2048,2048,2048:tn;4096,4096,4096:nn;4096,4096,4096:nt;4096,4096,4096:tn"},
    {"small", "64,48,96;48,64,32:nn;32,48,64:tn"},
}};

GemmShape parse_shape(std::string_view text) {
  GemmShape shape;
  const std::string whole(text);
  const auto refuse = [&] {
    fail(kOp, "got shape '{}', expected M,N,K with :nt, :nn or :tn behind it, or a set: {}", whole,
         fmt::join(gemm_sets(), ", "));
  };
  if (const auto colon = text.find(':'); colon != std::string_view::npos) {
    const std::string_view layout = text.substr(colon + 1);
    if (layout == "nn")
      shape.layout = Layout::NN;
    else if (layout == "tn")
      shape.layout = Layout::TN;
    else if (layout != "nt")
      refuse();
    text = text.substr(0, colon);
  }
  for (std::int64_t* extent : {&shape.m, &shape.n, &shape.k}) {
    const bool last = extent == &shape.k;
    const auto comma = text.find(',');
    if ((comma == std::string_view::npos) != last) refuse();
    const std::string_view part = text.substr(0, comma);
    const auto [end, error] = std::from_chars(part.data(), part.data() + part.size(), *extent);
    if (error != std::errc() || end != part.data() + part.size() || *extent < 1 ||
        *extent > (1 << 24))
      refuse();
    if (!last) text = text.substr(comma + 1);
  }
  return shape;
}

// Both operands of a product as dense K-major matrices, and what is compared with them.
struct Operands {
  Tensor a, b;  // [m, k], [n, k] on the device, in the dense dtype
};

// The largest error at sampled places, in units of what is allowed.
double error_of(const Tensor& c, const Tensor& a, const Tensor& b, double allowed) {
  constexpr std::int64_t kSamples = 23;
  const Tensor result = c.to(kCpu).to(DType::F32), x = a.to(kCpu).to(DType::F32),
               y = b.to(kCpu).to(DType::F32);
  const std::int64_t m = c.size(0), n = c.size(1), k = x.size(1);
  const double rounding = c.dtype() == DType::BF16 ? 1.0 / 256 : 1e-6;
  double worst = 0;
  for (std::int64_t s = 0; s < kSamples * kSamples; ++s) {
    const std::int64_t i = s / kSamples * 7919 % m, j = s % kSamples * 104729 % n;
    double sum = 0, size = 0;
    for (std::int64_t l = 0; l < k; ++l) {
      const double p = static_cast<double>(x.data<float>()[i * k + l]) *
                       static_cast<double>(y.data<float>()[j * k + l]);
      sum += p, size += std::fabs(p);
    }
    const double got = static_cast<double>(result.data<float>()[i * n + j]);
    const double limit = allowed * size + rounding * std::fabs(sum) + 1e-30;
    const double error = std::fabs(got - sum) / limit;
    worst = std::isfinite(error) ? std::max(worst, error) : INFINITY;
  }
  return worst;
}

// An encoded operand as the product finds it: K-major, or as the transposed matrix that it was
// stored as.
struct Stored {
  QTensor codes;
  bool transposed;
  QTensor k_major() const { return transposed ? codes.t_contiguous() : codes; }
};
Stored store(const Tensor& x, const QuantSpec& spec, bool transposed) {
  const QTensor q = quantize(x, spec);
  return {transposed ? q.t_contiguous() : q, transposed};
}

class Bench {
 public:
  explicit Bench(const GemmOptions& options)
      : options_(options),
        meter_(options.device, options.repeats, options.budget,
               std::int64_t{1} << (options.device.is_cuda() ? 28 : 25)),
        dense_(options.device.is_cuda() ? DType::BF16 : DType::F32) {
    for (const std::string& name : options.forms) {
      const auto at = std::ranges::find(kForms, name, &Form::name);
      NIBBLE_CHECK(at != kForms.end(), kOp, "unknown form: got '{}', expected {}", name,
                   fmt::join(gemm_forms(), ", "));
      forms_.push_back(at);
    }
  }

  GemmRow row(const GemmShape& shape) {
    const Operands x{random({shape.m, shape.k}, 1), random({shape.n, shape.k}, 2)};
    GemmRow out{shape, {dense(shape, x)}};
    for (const Form* form : forms_) {
      out.cells.push_back(encoded(shape, x, *form));
      GemmCell& cell = out.cells.back();
      if (cell.seconds > 0) cell.speedup = out.cells[0].seconds / cell.seconds;
    }
    return out;
  }

 private:
  Tensor random(const Shape& shape, std::uint32_t site) const {
    return Tensor::normal(shape, 0, 1, RngKey{31, site}, DType::F32, options_.device).to(dense_);
  }
  void time(GemmCell& cell, const GemmShape& s, const std::function<void()>& body) {
    cell.seconds = meter_.measure(2, [&](int) { body(); }).median;
    cell.rate = 2.0 * static_cast<double>(s.m) * static_cast<double>(s.n) *
                static_cast<double>(s.k) / cell.seconds;
  }
  void judge(GemmCell& cell, const Tensor& c, const Tensor& a, const Tensor& b, double allowed) {
    cell.error = error_of(c, a, b, allowed);
    if (cell.wrong()) cell.fault = fmt::format("WRONG by {:.3g} of what is allowed", cell.error);
  }
  GemmCell dense(const GemmShape& shape, const Operands& x) {
    GemmCell cell;
    cell.form = "dense";
    cell.kernel = dense_route(dense_, false, options_.device).name;
    // Views: a dense product takes either layout as it is.
    const Tensor a = shape.layout == Layout::TN ? ops::contiguous(x.a.t()).t() : x.a;
    const Tensor b = shape.layout == Layout::NT ? x.b.t() : ops::contiguous(x.b.t());
    Tensor c = Tensor::empty({shape.m, shape.n}, dense_, options_.device);
    const auto body = [&] { ops::matmul_into(c, a, b, false); };
    body();
    judge(cell, c, x.a, x.b, 1e-5);
    if (cell.fault.empty()) time(cell, shape, body);
    if (cell.seconds > 0) cell.speedup = 1;
    return cell;
  }
  GemmCell encoded(const GemmShape& shape, const Operands& x, const Form& form) {
    GemmCell cell;
    cell.form = form.name;
    const QuantSpec sa = parse_spec(form.a), sb = parse_spec(form.b);
    const ProductExtents extents{.m = shape.m, .n = shape.n, .k = shape.k};
    cell.fault = real_product_fault(sa, sb, extents);
    if (!cell.fault.empty()) return cell;
    const ProductRoute route = product_route(sa, sb, extents, options_.device);
    cell.kernel = route.name + (route.is_fallback() ? " (FALLBACK)" : "");
    const Stored a = store(x.a, sa, shape.layout == Layout::TN),
                 b = store(x.b, sb, shape.layout != Layout::NT);
    Tensor c = Tensor::empty({shape.m, shape.n}, dense_, options_.device);
    const auto body = [&] { matmul_nt_into(c, a.k_major(), b.k_major(), Mode::Real, false); };
    body();
    judge(cell, c, dequantize(quantize(x.a, sa)), dequantize(quantize(x.b, sb)), form.error);
    if (cell.fault.empty()) time(cell, shape, body);
    return cell;
  }

  const GemmOptions& options_;
  Meter meter_;
  DType dense_;
  std::vector<const Form*> forms_;
};

}  // namespace

std::string GemmShape::text() const {
  constexpr const char* kWords[] = {"", " nn", " tn"};
  return fmt::format("{}, {}, {}{}", m, n, k, kWords[static_cast<int>(layout)]);
}

std::vector<std::string> gemm_sets() {
  std::vector<std::string> names;
  for (const Set& set : kSets) names.emplace_back(set.name);
  return names;
}

std::vector<std::string> gemm_forms() {
  std::vector<std::string> names;
  for (const Form& form : kForms) names.emplace_back(form.name);
  return names;
}

std::vector<GemmShape> parse_shapes(const std::string& text) {
  const auto set = std::ranges::find(kSets, text, &Set::name);
  std::string_view rest = set == kSets.end() ? std::string_view(text) : set->shapes;
  std::vector<GemmShape> shapes;
  while (true) {
    const auto end = rest.find(';');
    shapes.push_back(parse_shape(rest.substr(0, end)));
    if (end == std::string_view::npos) return shapes;
    rest = rest.substr(end + 1);
  }
}

std::vector<GemmRow> bench_gemm(const GemmOptions& options) {
  Bench bench(options);
  std::vector<GemmRow> rows;
  for (const GemmShape& shape : options.shapes) {
    rows.push_back(bench.row(shape));
    if (options.each) options.each(rows.back());
  }
  return rows;
}

std::vector<double> mean_speedups(const std::vector<GemmRow>& rows) {
  std::vector<double> means(rows.empty() ? 0 : rows.front().cells.size(), 0.0);
  for (std::size_t i = 0; i < means.size(); ++i) {
    double logs = 0;
    int count = 0;
    for (const GemmRow& row : rows)
      if (row.cells[i].speedup > 0) logs += std::log(row.cells[i].speedup), ++count;
    means[i] = count ? std::exp(logs / count) : 0;
  }
  return means;
}

}  // namespace nibble::bench
