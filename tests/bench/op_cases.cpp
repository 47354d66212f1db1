#include "op_cases.h"

#include <algorithm>
#include <cmath>
#include <string_view>

#include "autograd/linear.h"
#include "autograd/ops.h"

namespace nibble::testing {
namespace {

// GPT-2 small's width; on a GPU as many tokens as a training step has, in part.
constexpr Sizes kSizes[] = {
    {"small", 48, 2, 12, 3, 16, 96, 24},
    {"cpu", 2048, 2, 256, 12, 64, 4096, 256},
    {"cuda", 32768, 8, 1024, 12, 64, 32768, 2048},
};

constexpr std::string_view kUnaries[] = {
    "abs",  "exp",    "log",     "sqrt",    "rsqrt",         "square",    "sin",       "cos",
    "tanh", "erf",    "relu",    "clamp",   "pow",           "silu",      "gelu",      "sigmoid",
    "cast", "affine", "dropout", "softmax", "fake_quantize", "operator+", "operator-", "operator*"};

bool is_unary(const OpRow& row) {
  return row.inputs.size() == 1 && row.parameters.empty() &&
         std::ranges::find(kUnaries, row.name) != std::end(kUnaries);
}

// Integers of [0, below), on the device.
Tensor draws(const Shape& shape, std::int64_t below, Device device) {
  return Tensor::uniform(shape, 0, static_cast<double>(below), RngKey{21, 1})
      .to(DType::I32)
      .to(device);
}

// Pairs of a query and a key that it sees.
double visible(std::int64_t queries, std::int64_t keys, bool causal) {
  double pairs = 0;
  for (std::int64_t t = 0; t < queries; ++t)
    pairs += static_cast<double>(causal ? std::clamp<std::int64_t>(t + 1 + keys - queries, 0, keys)
                                        : keys);
  return pairs;
}

double products(std::int64_t m, std::int64_t n, std::int64_t k) {
  return 2.0 * static_cast<double>(m) * static_cast<double>(n) * static_cast<double>(k);
}

class Builder {
 public:
  Builder(const OpRow& row, const Sizes& s, Device device) : row_(row), s_(s), device_(device) {
    case_.fn = row.fn;
  }

  BenchCase build() {
    const bool known = elementwise() || reduction() || view() || gather() || product() || loss() ||
                       attention_case();
    NIBBLE_CHECK(known, "op_bench", "got row {} ({}) without a case; add it to op_cases.cpp",
                 row_.name, row_.variant);
    return case_;
  }

 private:
  bool is(std::string_view name) const { return row_.name == name; }
  bool is(std::string_view name, std::string_view variant) const {
    return is(name) && row_.variant == variant;
  }

  // Sets the shapes, with the row's own ranges; `flops` an element of the largest argument.
  bool shapes(const std::vector<Shape>& inputs, const std::vector<Shape>& parameters = {},
              double flops = 1) {
    double elements = 0;
    const auto fill = [&](std::vector<ArgSpec>& to, const std::vector<ArgSpec>& from,
                          const std::vector<Shape>& given) {
      NIBBLE_CHECK(from.size() == given.size(), "op_bench", "got {} shapes for row {}, expected {}",
                   given.size(), row_.name, from.size());
      for (std::size_t i = 0; i < given.size(); ++i) {
        to.push_back({given[i], from[i].low, from[i].high});
        elements = std::max(elements, static_cast<double>(given[i].numel()));
      }
    };
    fill(case_.inputs, row_.inputs, inputs);
    fill(case_.parameters, row_.parameters, parameters);
    return work(flops * elements);
  }
  bool work(double forward, double backward_factor = 2) {
    case_.flops = forward;
    case_.backward_flops = backward_factor * forward;
    return true;
  }

  bool elementwise() {
    if (is_unary(row_)) return shapes({plane_});
    if (is("add", "same shape") || is("mse_loss")) return shapes({plane_, plane_});
    if (is("add", "broadcast")) return shapes({{s_.rows / 8, 1, c_}, {8, 1}}), work(count(plane_));
    if (is("add", "scalar")) return shapes({plane_, {}});
    if (is("sub") || is("minimum")) return shapes({column_, line_}), work(count(plane_));
    if (is("mul")) return shapes({plane_, column_});
    if (is("div") || is("maximum") || row_.variant == "variables") return shapes({plane_, line_});
    if (is("where")) {
      const Tensor mask = draws(plane_, 2, device_).to(DType::U8);
      case_.fn = [mask](const OpArgs& a) { return where(mask, a.x[0], a.x[1]); };
      return shapes({plane_, line_});
    }
    return false;
  }

  bool reduction() {
    if (is("sum")) {
      shapes({cube_});
      case_.inputs[0].low = -1;  // a mean that is not 0: no cancellation to near nothing
      return true;
    }
    if (is("max", "all") || is("cumsum")) return shapes({plane_});
    return (is("mean") || is("max") || is("min") || is("log_softmax")) && shapes({cube_});
  }

  bool view() {
    const std::int64_t r = s_.rows, c = c_;
    if (is("reshape", "of a transpose")) {
      case_.fn = [r, c](const OpArgs& a) { return reshape(transpose(a.x[0], 0, 1), {r * c}); };
      return shapes({plane_});
    }
    if (is("slice")) {
      case_.fn = [r](const OpArgs& a) { return slice(a.x[0], 0, r / 4, r / 4 * 3); };
      return shapes({plane_});
    }
    if (is("expand")) {
      case_.fn = [r, c](const OpArgs& a) { return expand(a.x[0], {2, r, c}); };
      return shapes({column_});
    }
    if (is("permute", "four")) return shapes({{s_.batch, s_.time, s_.heads, s_.head_dim}});
    if (is("squeeze")) return shapes({{r, 1, c}});
    if (is("reshape") || is("unsqueeze")) return shapes({plane_});
    return (is("transpose") || is("permute") || is("select")) && shapes({cube_});
  }

  bool gather() {
    if (is("concat")) return shapes({{s_.rows, c_ / 8}, {s_.rows, c_ / 4}});
    if (is("stack")) return shapes({{s_.rows, c_ / 4}, {s_.rows, c_ / 4}});
    if (is("take_along_last")) {
      const Tensor index = draws({s_.batch, s_.time}, c_, device_);
      case_.fn = [index](const OpArgs& a) { return take_along_last(a.x[0], index); };
      return shapes({cube_}), work(count(index.shape()));
    }
    if (is("embedding")) {
      const Tensor ids = draws({s_.batch, s_.time}, s_.vocab, device_);
      case_.fn = [ids](const OpArgs& a) { return embedding(ids, *a.p[0]); };
      return shapes({}, {{s_.vocab, c_}}), work(count(cube_));
    }
    return false;
  }

  // Weights of the size that initialisation gives them: results stay as large as inputs, and logits
  // so small that their rounding does not decide a softmax.
  bool scaled_weights() {
    const double bound = 1 / std::sqrt(static_cast<double>(c_));
    for (ArgSpec& a : case_.parameters) a.low = -bound, a.high = bound;
    return true;
  }

  bool product() {
    const std::int64_t r = s_.rows, c = c_, tokens = s_.batch * s_.time;
    if (is("matmul", "matrices")) return shapes({plane_, {c, c}}), work(products(r, c, c));
    if (is("matmul", "batch broadcast"))
      return shapes({{s_.batch, 1, s_.time, s_.head_dim}, {s_.heads, s_.head_dim, s_.time}}),
             work(products(tokens, s_.heads * s_.time, s_.head_dim));
    if (is("matmul", "one right side"))
      return shapes({cube_, {c, c}}), work(products(tokens, c, c));
    if (is("linear", "bias"))
      return shapes({cube_}, {{4 * c, c}, {4 * c}}), scaled_weights(),
             work(products(tokens, 4 * c, c));
    if (is("linear", "no bias"))
      return shapes({plane_}, {{c, c}}), scaled_weights(), work(products(r, c, c));
    if (is("checkpoint"))  // backward runs the forward once more
      return shapes({plane_}, {{c, c}, line_}), scaled_weights(), work(products(r, c, c), 3);
    if (is("add_layer_norm")) return shapes({cube_, cube_}, {line_, line_}, 11);
    if (is("layer_norm", "beta")) return shapes({cube_}, {line_, line_}, 8);
    if (is("layer_norm")) return shapes({cube_}, {line_}, 8);
    return is("rms_norm") && shapes({plane_}, {line_}, 6);
  }

  bool loss() {
    const bool ignored = row_.variant == "all ignored";
    const Tensor targets = ignored ? Tensor::full({s_.tokens}, -1, DType::I32, device_)
                                   : draws({s_.tokens}, s_.vocab, device_);
    if (is("cross_entropy")) {
      case_.fn = [targets](const OpArgs& a) { return cross_entropy(a.x[0], targets); };
      return shapes({{s_.tokens, s_.vocab}}, {}, 5);
    }
    if (!is("linear_cross_entropy")) return false;
    const std::int64_t chunk = row_.variant == "one chunk" ? s_.tokens : (s_.tokens + 3) / 4;
    case_.fn = [targets, chunk](const OpArgs& a) {
      return linear_cross_entropy(a.x[0], *a.p[0], targets, {}, {.token_chunk = chunk});
    };
    return shapes({{s_.tokens, c_}}, {{s_.vocab, c_}}), scaled_weights(),
           work(products(s_.tokens, s_.vocab, c_));
  }

  bool attention_case() {
    const std::int64_t b = s_.batch, t = s_.time, h = s_.heads, d = s_.head_dim;
    const auto cost = [&](std::int64_t queries, std::int64_t keys, bool causal) {
      return work(4 * static_cast<double>(b * h * d) * visible(queries, keys, causal), 2.5);
    };
    if (is("self_attention")) {
      const bool causal = row_.variant != "full";
      const double p = row_.variant == "dropout" ? 0.25 : 0;
      case_.fn = [h, causal, p](const OpArgs& a) {
        return self_attention(a.x[0], static_cast<int>(h), causal, p);
      };
      return shapes({{b, t, 3 * c_}}), cost(t, t, causal);
    }
    if (!is("attention")) return false;
    const std::string& v = row_.variant;
    const auto run = [&](std::int64_t queries, std::int64_t keys, std::int64_t kv, bool causal) {
      return shapes({{b, queries, h, d}, {b, keys, kv, d}, {b, keys, kv, d}}),
             cost(queries, keys, causal);
    };
    if (v == "grouped queries" || v == "dropout") return run(t, t, h / 3, true);
    if (v == "more keys than queries") return run(t / 2, t, h, true);
    if (v == "fewer keys, full") return run(t, t / 2, h, false);
    return v == "fewer keys, causal" && run(t, t / 2, h / 3, true);
  }

  static double count(const Shape& shape) { return static_cast<double>(shape.numel()); }

  const OpRow& row_;
  const Sizes& s_;
  Device device_;
  BenchCase case_;
  const std::int64_t c_ = s_.cols();
  const Shape plane_{s_.rows, c_}, line_{c_}, column_{s_.rows, 1}, cube_{s_.batch, s_.time, c_};
};

}  // namespace

const Sizes& find_sizes(std::string_view name) {
  for (const Sizes& s : kSizes)
    if (s.name == name) return s;
  fail("op_bench", "unknown sizes: got '{}', expected small, cpu or cuda", name);
}

BenchCase bench_case(const OpRow& row, const Sizes& sizes, Device device) {
  return Builder(row, sizes, device).build();
}

}  // namespace nibble::testing
