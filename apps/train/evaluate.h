// Validation loss of a whole split.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>

#include "data/dataset.h"
#include "models/language_model.h"

namespace nibble::train {

struct EvalResult {
  struct Part {
    double nats = 0;  // summed over the predicted tokens
    std::int64_t tokens = 0;
    std::int64_t text_bytes = 0;  // 0: not known (part of a split)
    double loss() const { return tokens ? nats / static_cast<double>(tokens) : 0; }
    double bits_per_byte() const;
  };
  Part all;
  std::map<std::string, Part> strata;  // by source; only when the whole split was read
};

struct EvalOptions {
  std::int64_t batch = 8, sequence = 0;  // 0: the model's context
  std::int64_t max_batches = 0;          // 0: the whole split
};
// Token-weighted mean over the split in windows of `sequence` (specs/protocol.md); the model runs
// outside training. Deterministic for any batch size but for the rounding of f32 products.
EvalResult evaluate(LanguageModel& model, const std::filesystem::path& dataset,
                    const std::string& split, const EvalOptions& options);

}  // namespace nibble::train
