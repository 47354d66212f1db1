#include "apps/cli/inspect_products.h"

#include <fmt/format.h>

#include <algorithm>

#include "apps/train/sample_step.h"
#include "autograd/linear.h"
#include "quant/product_route.h"

namespace nibble::cli {
namespace {

struct Layer {
  std::string path, shown;
  LinearRecipe recipe;
  std::int64_t in, out;
};

// The spec that an operand has in its product; those that are reused, of fprop's codes transposed.
std::optional<QuantSpec> spec_of(const Encoding& e, const Encoding& forward) {
  if (e.source == Source::ReuseForward && forward.quant) return forward.quant->t();
  return e.quant;
}

std::string text_of(const Encoding& e) {
  if (e.custom) return e.custom->name();
  if (e.source == Source::ReuseForward) return "reuse";
  return e.quant ? to_string(*e.quant) : "-";
}

ProductRow product_row(const Layer& layer, const char* name, const GemmRecipe& p, std::int64_t m,
                       std::int64_t n, std::int64_t k, DType compute, Device device) {
  ProductRow row{layer.shown, name, m, n, k, text_of(p.lhs), text_of(p.rhs), "", "", "dense", {}};
  const GemmRecipe& forward = layer.recipe.fprop;
  const auto a = spec_of(p.lhs, forward.lhs);
  const auto b = spec_of(p.rhs, std::string_view(name) == "wgrad" ? forward.lhs : forward.rhs);
  if (p.mode == Mode::Real && a && b) {
    row.mode = "real";
    row.route = product_route(*a, *b, {.m = m, .n = n, .k = k}, device);
    if (p.accumulation == Accumulation::Fast) row.route.reason += ", fast sums";
  } else {
    if (!p.empty()) row.mode = "simulated";
    row.route = dense_route(compute, !p.empty(), device);
  }
  return row;
}

}  // namespace

std::string kind_of(const std::string& path) {
  if (!path.starts_with("blocks.")) return path;
  const std::size_t rest = path.find('.', 7);
  return rest == std::string::npos ? path : "blocks.*" + path.substr(rest);
}

Producers producers_of(train::TrainConfig config, std::int64_t dataset_vocab) {
  config.model.checkpoint_blocks = false;  // a recomputed block has a tape of its own
  train::SampleStep step(config, dataset_vocab, kMeta);
  step.micro_step();
  Producers out;
  for (const Tape::Handover& h : step.tape().handovers()) out[{*h.reader, h.gradient}] = h.producer;
  return out;
}

std::vector<ProductRow> product_rows(LanguageModel& model, const train::TrainConfig& config,
                                     const Producers& producers, Device device, bool all) {
  std::vector<Layer> layers;
  bool has_head = false;
  std::int64_t width = 0;
  for_each_module(model, [&](Module& m) {
    if (const auto* linear = dynamic_cast<const Linear*>(&m)) {
      const Shape& shape = linear->weight.shape();
      layers.push_back({m.path(), m.path(), linear->recipe, shape[1], shape[0]});
      has_head |= m.path() == "lm_head";
      if (width == 0) width = shape[1];
    }
  });
  // A tied head is no module: the embedding's table serves it.
  if (!has_head && width > 0)
    layers.push_back(
        {"lm_head", "lm_head", recipes::parse(config.recipe).at("lm_head"), width, model.vocab()});

  const DType compute = config.model.compute == "bf16" ? DType::BF16 : DType::F32;
  const std::int64_t length = config.data.sequence ? config.data.sequence : model.context();
  const std::int64_t tokens = config.trainer.batch * length;
  const auto by = [&](const Layer& layer, bool gradient) {
    const auto at = producers.find({layer.path, gradient});
    return at == producers.end() ? std::string() : at->second;
  };
  std::vector<ProductRow> rows;
  std::vector<std::pair<std::string, LinearRecipe>> seen;
  for (Layer& layer : layers) {
    if (!all) {
      // Blocks whose recipe is overridden stay apart.
      const std::pair<std::string, LinearRecipe> kind{kind_of(layer.path), layer.recipe};
      if (std::find(seen.begin(), seen.end(), kind) != seen.end()) continue;
      const bool other = std::any_of(seen.begin(), seen.end(),
                                     [&](const auto& s) { return s.first == kind.first; });
      seen.push_back(kind);
      if (!other) layer.shown = kind.first;
    }
    const auto add = [&](const char* name, const GemmRecipe& p, std::int64_t m, std::int64_t n,
                         std::int64_t k) {
      ProductRow row = product_row(layer, name, p, m, n, k, compute, device);
      if (row.mode == "real") {
        const bool forward = row.product == "fprop", weights = row.product == "wgrad";
        row.lhs_by = by(layer, !forward);
        if (weights) row.rhs_by = by(layer, false);
      }
      row.exact_target =
          layer.path == "lm_head" && row.product != "fprop" && takes_targets_out(layer.recipe);
      rows.push_back(std::move(row));
    };
    add("fprop", layer.recipe.fprop, tokens, layer.out, layer.in);
    add("dgrad", layer.recipe.dgrad, tokens, layer.in, layer.out);
    add("wgrad", layer.recipe.wgrad, layer.out, layer.in, tokens);
  }
  return rows;
}

}  // namespace nibble::cli
