// The three products of every linear layer: encodings, extents, and the kernel that serves them.
#pragma once

#include <map>
#include <string>
#include <utility>
#include <vector>

#include "apps/train/train_config.h"
#include "models/language_model.h"
#include "quant/product_route.h"

namespace nibble::cli {

struct ProductRow {
  std::string layer, product;  // "blocks.*.attn.qkv" when blocks are alike
  std::int64_t m, n, k;
  std::string lhs, rhs;        // spec texts as parse_spec reads them
  std::string lhs_by, rhs_by;  // the operation that encodes them; "" where the layer does
  std::string mode;            // "dense", "simulated", "real"
  ProductRoute route;          // which kernel, and why
  bool exact_target = false;   // lhs is dlogits without targets, whose terms are added in floats
  std::int64_t flops() const { return 2 * m * n * k; }
};
// Which operation encodes x, or (true) dy, of the linear layer at a path for it: those of a step on
// Meta.
using Producers = std::map<std::pair<std::string, bool>, std::string>;
Producers producers_of(train::TrainConfig config, std::int64_t dataset_vocab);

// "blocks.3.mlp.fc1" → "blocks.*.mlp.fc1"
std::string kind_of(const std::string& path);

// Layers that differ in their number alone are one, unless `all`. Extents are of one micro-batch.
std::vector<ProductRow> product_rows(LanguageModel& model, const train::TrainConfig& config,
                                     const Producers& producers, Device device, bool all);

}  // namespace nibble::cli
