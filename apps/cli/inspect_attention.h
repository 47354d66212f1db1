// The attention of every block: its extents, and the kernels that serve it on a device.
#pragma once

#include <string>
#include <vector>

#include "apps/cli/inspect_products.h"
#include "apps/config/json.h"
#include "tensor/attention_route.h"

namespace nibble::cli {

struct AttentionRow {
  std::string layer;  // "blocks.*.attn" when blocks are alike
  AttentionProblem problem;
  bool encodes;  // the output, for the projection behind it
  AttentionRoute forward, backward;
};
// Extents are of one micro-batch; `producers` tells which attention encodes its output.
std::vector<AttentionRow> attention_rows(LanguageModel& model, const train::TrainConfig& config,
                                         const Producers& producers, Device device, bool all);

void print_attention(const std::vector<AttentionRow>& rows);
Json json_of(const std::vector<AttentionRow>& rows);

}  // namespace nibble::cli
