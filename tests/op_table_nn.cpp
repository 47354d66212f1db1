// Rows of products, norms, attention, losses and checkpointing.
#include <algorithm>
#include <cmath>

#include "autograd/checkpoint.h"
#include "autograd/context.h"
#include "autograd/linear.h"
#include "autograd/ops.h"
#include "op_table.h"

namespace nibble::testing {
namespace {

const std::vector<std::int32_t> kTargets{2, -1, 6, 0, 2, -1};

Tensor naive_matmul(const Tensor& a, const Tensor& b) {  // [..., M, K] · [..., K, N]
  const Shape batch = broadcast_shapes("naive", a.select(-1, 0).select(-1, 0).shape(),
                                       b.select(-1, 0).select(-1, 0).shape());
  const std::int64_t m = a.size(-2), n = b.size(-1);
  const auto whole = [&](const Tensor& x) {
    Shape shape = batch;
    shape.push_back(x.size(-2));
    shape.push_back(x.size(-1));
    return x.expand(shape).clone().view({batch.numel(), x.size(-2), x.size(-1)});
  };
  const Tensor wa = whole(a), wb = whole(b);
  Shape shape = batch;
  shape.push_back(m);
  shape.push_back(n);
  Tensor y = Tensor::empty(shape, DType::F64);
  for (std::int64_t i = 0; i < batch.numel(); ++i)
    y.view({batch.numel(), m, n})
        .select(0, i)
        .copy_from(naive_linear(wa.select(0, i).clone(), wb.select(0, i).t().clone()));
  return y;
}

Tensor naive_norm(const Tensor& x, const Tensor& gamma, const Tensor& beta, bool centred,
                  double epsilon) {
  Tensor y = x.clone();
  const std::int64_t n = x.size(-1);
  for (std::int64_t r = 0; r < x.rows(); ++r) {
    double* v = y.data<double>() + r * n;
    double mean = 0, squares = 0;
    for (std::int64_t c = 0; c < n; ++c) mean += centred ? v[c] / static_cast<double>(n) : 0;
    for (std::int64_t c = 0; c < n; ++c)
      squares += (v[c] - mean) * (v[c] - mean) / static_cast<double>(n);
    for (std::int64_t c = 0; c < n; ++c)
      v[c] = (v[c] - mean) / std::sqrt(squares + epsilon) * gamma.data<double>()[c] +
             (beta.defined() ? beta.data<double>()[c] : 0);
  }
  return y;
}

// softmax(q·kᵀ/√D)·v with dropout of the context's key; [B, T, H, D] and [B, S, Hkv, D].
Tensor naive_attention(const Tensor& q, const Tensor& k, const Tensor& v, bool causal, double p) {
  const std::int64_t batch = q.size(0), t = q.size(1), h = q.size(2), d = q.size(3), s = k.size(1),
                     shared = h / k.size(2);
  const Draws16 draws(random_key("attention"), 0);
  Tensor y = Tensor::zeros(q.shape(), DType::F64);
  const auto at = [&](Tensor x, std::int64_t b, std::int64_t i, std::int64_t head) {
    return x.data<double>() + ((b * x.size(1) + i) * x.size(2) + head) * d;
  };
  for (std::int64_t b = 0; b < batch; ++b)
    for (std::int64_t head = 0; head < h; ++head)
      for (std::int64_t i = 0; i < t; ++i) {
        const std::int64_t keys = causal ? std::min(s, i + s - t + 1) : s;
        std::vector<double> weight;
        double sum = 0;
        for (std::int64_t j = 0; j < keys; ++j) {
          double dot = 0;
          for (std::int64_t c = 0; c < d; ++c)
            dot += at(q, b, i, head)[c] * at(k, b, j, head / shared)[c];
          weight.push_back(std::exp(dot / std::sqrt(static_cast<double>(d))));
          sum += weight.back();
        }
        for (std::int64_t j = 0; j < keys; ++j) {
          const std::int64_t element = ((b * h + head) * t + i) * s + j;
          const bool keep = draws(static_cast<std::uint64_t>(element)) >= std::lround(p * 65536);
          const double w = keep ? weight[static_cast<std::size_t>(j)] / sum / (1 - p) : 0;
          for (std::int64_t c = 0; c < d; ++c)
            at(y, b, i, head)[c] += w * at(v, b, j, head / shared)[c];
        }
      }
  return y;
}

OpRow attention_row(const char* variant, const Shape& q, const Shape& k, bool causal, double p) {
  return {.name = "attention",
          .variant = variant,
          .inputs = {{q}, {k}, {k}},
          .parameters = {},
          .fn = [=](const OpArgs& a) { return attention(a.x[0], a.x[1], a.x[2], causal, p); },
          .reference =
              [=](const RefArgs& r) { return naive_attention(r.x[0], r.x[1], r.x[2], causal, p); }};
}

OpRow self_attention_row(const char* variant, bool causal, double p) {
  return {.name = "self_attention",
          .variant = variant,
          .inputs = {{{2, 3, 12}}},
          .parameters = {},
          .fn = [=](const OpArgs& a) { return self_attention(a.x[0], 2, causal, p); },
          .reference =
              [=](const RefArgs& r) {
                const Tensor packed = r.x[0].view({2, 3, 3, 2, 2});
                const auto part = [&](int i) { return packed.select(2, i).clone(); };
                return naive_attention(part(0), part(1), part(2), causal, p).view({2, 3, 4});
              }};
}

OpRow classifier_row(const char* variant, std::int64_t chunk, std::vector<std::int32_t> targets) {
  return {.name = "linear_cross_entropy",
          .variant = variant,
          .inputs = {{{2, 3, 4}}},
          .parameters = {{{7, 4}}},
          .fn =
              [=](const OpArgs& a) {
                return linear_cross_entropy(a.x[0], *a.p[0], a.ints(targets, {2, 3}), {},
                                            {.token_chunk = chunk});
              },
          .reference =
              [=](const RefArgs& r) {
                return naive_cross_entropy(naive_linear(r.x[0], r.p[0]), targets);
              }};
}

OpRow matmul_row(const char* variant, const Shape& a, const Shape& b) {
  return {.name = "matmul",
          .variant = variant,
          .inputs = {{a}, {b}},
          .parameters = {},
          .fn = [](const OpArgs& v) { return matmul(v.x[0], v.x[1]); },
          .reference = [](const RefArgs& r) { return naive_matmul(r.x[0], r.x[1]); }};
}

std::vector<OpRow> products() {
  return {
      matmul_row("matrices", {3, 4}, {4, 2}),
      matmul_row("batch broadcast", {2, 1, 3, 4}, {3, 4, 2}),
      matmul_row("one right side", {2, 3, 4}, {4, 2}),
      {.name = "linear",
       .variant = "bias",
       .inputs = {{{2, 3, 4}}},
       .parameters = {{{5, 4}}, {{5}}},
       .fn = [](const OpArgs& a) { return linear(a.x[0], *a.p[0], a.p[1], {}); },
       .reference = [](const RefArgs& r) { return naive_linear(r.x[0], r.p[0], r.p[1]); }},
      {.name = "linear",
       .variant = "no bias",
       .inputs = {{{3, 4}}},
       .parameters = {{{5, 4}}},
       .fn = [](const OpArgs& a) { return linear(a.x[0], *a.p[0], nullptr, {}); },
       .reference = [](const RefArgs& r) { return naive_linear(r.x[0], r.p[0]); }},
      {.name = "checkpoint",
       .variant = "of a linear",
       .inputs = {{{3, 4}}},
       .parameters = {{{4, 4}}, {{4}}},
       .fn =
           [](const OpArgs& a) {
             Parameter *w = a.p[0], *b = a.p[1];
             return checkpoint([w, b](const Var& x) { return x * tanh(linear(x, *w, b, {})); },
                               a.x[0]);
           },
       .reference =
           [](const RefArgs& r) {
             return map(naive_linear(r.x[0], r.p[0], r.p[1]), r.x[0],
                        [](double y, double x) { return x * std::tanh(y); });
           }},
  };
}

std::vector<OpRow> norms() {
  const auto layer = [](const char* variant, bool beta) {
    std::vector<ArgSpec> parameters{{{5}}};
    if (beta) parameters.push_back({{5}});
    return OpRow{.name = "layer_norm",
                 .variant = variant,
                 .inputs = {{{2, 3, 5}}},
                 .parameters = parameters,
                 .fn =
                     [=](const OpArgs& a) {
                       return layer_norm(a.x[0], *a.p[0], beta ? a.p[1] : nullptr, 1e-3);
                     },
                 .reference =
                     [=](const RefArgs& r) {
                       return naive_norm(r.x[0], r.p[0], beta ? r.p[1] : Tensor(), true, 1e-3);
                     }};
  };
  static const std::string module = "norm";
  return {layer("beta", true), layer("no beta", false),
          OpRow{.name = "add_layer_norm",
                .variant = "",
                .inputs = {{{4, 5}}, {{4, 5}}},
                .parameters = {{{5}}, {{5}}},
                .fn =
                    [](const OpArgs& a) {
                      const AddedNorm r =
                          add_layer_norm(a.x[0], a.x[1], *a.p[0], a.p[1], 1e-3, {}, module);
                      return r.sum + r.norm;
                    },
                .reference =
                    [](const RefArgs& r) {
                      const Tensor sum = ops::add(r.x[0], r.x[1]);
                      return ops::add(sum, naive_norm(sum, r.p[0], r.p[1], true, 1e-3));
                    }},
          OpRow{.name = "rms_norm",
                .variant = "",
                .inputs = {{{4, 5}}},
                .parameters = {{{5}}},
                .fn = [](const OpArgs& a) { return rms_norm(a.x[0], *a.p[0], 1e-3); },
                .reference =
                    [](const RefArgs& r) {
                      return naive_norm(r.x[0], r.p[0], Tensor(), false, 1e-3);
                    }}};
}

std::vector<OpRow> losses() {
  return {
      classifier_row("one chunk", 100, kTargets),
      classifier_row("chunks", 4, kTargets),
      classifier_row("all ignored", 3, std::vector<std::int32_t>(6, -1)),
      {.name = "cross_entropy",
       .variant = "ignored rows",
       .inputs = {{{2, 3, 7}}},
       .parameters = {},
       .fn =
           [](const OpArgs& a) {
             return cross_entropy(a.x[0], a.ints(kTargets, {2, 3}));
           },
       .reference = [](const RefArgs& r) { return naive_cross_entropy(r.x[0], kTargets); }},
      {.name = "mse_loss",
       .variant = "",
       .inputs = {{{3, 4}}, {{3, 4}}},
       .parameters = {},
       .fn = [](const OpArgs& a) { return mse_loss(a.x[0], a.x[1]); },
       .reference =
           [](const RefArgs& r) {
             const Tensor squares =
                 map(r.x[0], r.x[1], [](double a, double b) { return (a - b) * (a - b) / 12; });
             return fold(squares, {}, false, 0, [](double a, double b) { return a + b; });
           }},
  };
}

}  // namespace

std::vector<OpRow> nn_rows() {
  std::vector<OpRow> rows = products();
  for (const auto& part : {norms(), losses()}) rows.insert(rows.end(), part.begin(), part.end());
  for (OpRow row : {self_attention_row("causal", true, 0), self_attention_row("full", false, 0),
                    self_attention_row("dropout", true, 0.25),
                    attention_row("grouped queries", {2, 3, 4, 2}, {2, 3, 2, 2}, true, 0),
                    attention_row("more keys than queries", {1, 2, 2, 3}, {1, 5, 2, 3}, true, 0),
                    attention_row("fewer keys, full", {1, 4, 2, 3}, {1, 2, 2, 3}, false, 0),
                    attention_row("fewer keys, causal", {1, 4, 2, 3}, {1, 2, 1, 3}, true, 0),
                    attention_row("dropout", {1, 3, 2, 2}, {1, 4, 1, 2}, true, 0.25)})
    rows.push_back(std::move(row));
  return rows;
}

}  // namespace nibble::testing
