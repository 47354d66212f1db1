// Runs of the trainer in a folder of the test's own.
#pragma once

#include <doctest/doctest.h>

#include <cstdio>
#include <string>

#include "apps/run/metrics.h"
#include "apps/train/checkpoints.h"
#include "apps/train/trainer.h"
#include "data/tokenize.h"
#include "temp_dir.h"
#include "tensor_testing.h"

namespace nibble::train::testing {

// Prose of made-up words, 4 documents of two sources, as the tail of which `val` is taken.
inline std::filesystem::path make_dataset(const test::TempDir& dir, double val = 0.25) {
  std::string lines;
  for (int document = 0; document < 4; ++document) {
    lines += fmt::format(R"({{"source":"{}","text":")", document % 2 ? "odd" : "even");
    for (std::uint32_t i = 0; i < 220; ++i) {
      const std::uint32_t h =
          rng_site("word", "text", i * 5 + static_cast<std::uint32_t>(document));
      constexpr const char* kWords[] = {"the ",    "quick ", "brown ", "fox ",
                                        "jumps. ", "over ",  "lazy ",  "dogs "};
      lines += kWords[h % 8];
    }
    lines += "\"}\n";
  }
  const auto input = dir.write("text.jsonl", lines);
  tokenize_files(ByteTokenizer(), {.inputs = {input},
                                   .val_inputs = {},
                                   .val_fraction = val,
                                   .output = dir / "data",
                                   .tokens_per_shard = 1500,
                                   .threads = 1,
                                   .progress = {}});
  return dir / "data";
}

// A run of milliseconds; `changes` are merged into its configuration.
inline TrainConfig tiny_config(const std::filesystem::path& data, const Json& changes = {}) {
  Json json = {
      {"model", {{"layers", 1}, {"heads", 2}, {"width", 32}, {"context", 24}, {"dropout", 0.1}}},
      {"data", {{"path", data.string()}}},
      {"recipe", "int8,weights=f32"},
      {"trainer",
       {{"steps", 8},
        {"batch", 4},
        {"lr", 3e-3},
        {"warmup", 2},
        {"eval_every", 4},
        {"checkpoint_every", 2},
        {"keep", 2},
        {"log_every", 1}}}};
  if (!changes.is_null()) json.merge_patch(changes);
  return read_config(json);
}

struct Run {
  TrainOptions options;
  std::string log;

  Run(const TrainConfig& config, const std::filesystem::path& output) {
    options.config = config, options.output = output;
  }
  Outcome go() {
    std::FILE* file = std::tmpfile();
    REQUIRE(file);
    options.log = file;
    const auto read = [&] {
      std::rewind(file);
      log.clear();
      for (int c; (c = std::fgetc(file)) != EOF;) log += static_cast<char>(c);
      std::fclose(file);
    };
    try {
      const Outcome outcome = train(options);
      read();
      return outcome;
    } catch (...) {
      read();
      throw;
    }
  }
  Outcome resume() {
    options.resume = true;
    return go();
  }
  std::filesystem::path checkpoints() const { return options.output / "checkpoints"; }
  std::string final_bytes() const {
    return test::read_file(list_checkpoints(checkpoints()).back().path);
  }
  std::vector<Json> metrics() const { return run::read_metrics(options.output / "metrics.jsonl"); }
};

inline void warn_nobody(const std::string& text) { FAIL("unexpected warning: " << text); }

// All that a checkpoint holds, to be changed and written again.
struct Loaded {
  nlohmann::json state;
  NamedTensors tensors;

  explicit Loaded(const std::filesystem::path& path) {
    const Checkpoint c = Checkpoint::open(path);
    state = c.state();
    for (const auto& e : c.file().entries()) tensors.emplace_back(e.name, c.file().read(e));
  }
  Tensor& operator[](std::string_view name) {
    for (auto& [n, t] : tensors)
      if (n == name) return t;
    fail("test", "no tensor {}", name);
  }
};

}  // namespace nibble::train::testing
