// The integer generator of golden/make_gpt2.py, and small models for the tests of what trains them.
#pragma once

#include <cstdint>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "models/gpt2.h"

namespace nibble::testing {

inline std::uint32_t golden_hash(std::string_view name, std::uint32_t i) {
  std::uint32_t x = 0x811C9DC5u;
  for (const char c : name) x = (x ^ static_cast<unsigned char>(c)) * 0x01000193u;
  x += i * 0x9E3779B9u;
  x = (x ^ (x >> 16)) * 0x85EBCA6Bu;
  x = (x ^ (x >> 13)) * 0xC2B2AE35u;
  return x ^ (x >> 16);
}

inline Tensor golden_values(std::string_view name, const Shape& shape, float scale,
                            float offset = 0) {
  std::vector<float> v(static_cast<std::size_t>(shape.numel()));
  for (std::size_t i = 0; i < v.size(); ++i) {
    const auto bits = static_cast<int>(golden_hash(name, static_cast<std::uint32_t>(i)) >> 16);
    v[i] = static_cast<float>(bits - 32768) * scale + offset;
  }
  return Tensor::from(v, shape);
}

inline nlohmann::json read_golden(const std::string& name) {
  std::ifstream file(NIBBLE_SOURCE_DIR "/tests/golden/" + name);
  return nlohmann::json::parse(file);
}

// A model small enough to be trained many times: two layers, every linear wide enough for groups.
inline Gpt2Config tiny_gpt2() {
  Gpt2Config c;
  c.vocab = 96, c.context = 32, c.layers = 2, c.heads = 2, c.width = 64;
  return c;
}

inline Tensor golden_tokens(std::string_view name, const Shape& shape, std::int64_t vocab) {
  std::vector<std::int32_t> ids(static_cast<std::size_t>(shape.numel()));
  for (std::size_t i = 0; i < ids.size(); ++i)
    ids[i] = static_cast<std::int32_t>(golden_hash(name, static_cast<std::uint32_t>(i)) %
                                       static_cast<std::uint32_t>(vocab));
  return Tensor::from(ids, shape);
}

}  // namespace nibble::testing
