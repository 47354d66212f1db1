// The three products of every linear layer: encodings, extents, and the kernel that serves them.
#pragma once

#include <string>
#include <vector>

#include "apps/train/train_config.h"
#include "models/language_model.h"
#include "quant/product_route.h"

namespace nibble::cli {

struct ProductRow {
  std::string layer, product;  // "blocks.*.attn.qkv" when blocks are alike
  std::int64_t m, n, k;
  std::string lhs, rhs;  // spec texts as parse_spec reads them
  std::string mode;      // "dense", "simulated", "real"
  ProductRoute route;    // which kernel, and why
  std::int64_t flops() const { return 2 * m * n * k; }
};
// Layers that differ in their number alone are one, unless `all`. Extents are of one micro-batch.
std::vector<ProductRow> product_rows(LanguageModel& model, const train::TrainConfig& config,
                                     Device device, bool all);

}  // namespace nibble::cli
