// The next token from a model's logits.
#pragma once

#include <cstdint>
#include <span>

namespace nibble::train {

struct SamplingOptions {
  double temperature = 1;  // 0: greedy
  std::int64_t top_k = 0;  // only the k likeliest tokens; 0: all
  double top_p = 1;        // only the likeliest tokens that together reach p, the last one included
  bool greedy = false;     // the likeliest token, the lowest id among equals
  std::uint64_t seed = 1;
};

// Temperature, then top-k, then top-p, then one draw that depends on (seed, index) alone. Throws
// Error("generate") for logits that are not finite.
std::int32_t sample(std::span<const float> logits, const SamplingOptions& options,
                    std::uint64_t index);

}  // namespace nibble::train
