// nibble tune: measures plans for the matrix products of a configuration and writes them as a
// table.
#include <fmt/format.h>
#include <CLI/CLI.hpp>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <memory>

#include "apps/cli/commands.h"
#include "apps/config/jsonnet.h"
#include "apps/config/overrides.h"
#include "apps/train/plan_table.h"
#include "apps/train/sample_step.h"
#include "data/dataset.h"
#ifdef NIBBLE_CUDA_BACKEND
#include "quant/cuda/tune.h"
#include "tensor/cuda/context.h"
#endif

namespace nibble::cli {
namespace {

struct Options {
  std::string output;
  std::vector<std::string> configs, overrides;
  int repeats = 15, candidates = 16;
  Machinery machinery{.device = "cuda"};
};

void check_gpu(const std::string& device) {
  NIBBLE_CHECK(parse_device(device).is_cuda(), "tune",
               "plans are measured on a GPU: got --device {}, expected cuda or cuda:N", device);
#ifdef NIBBLE_CUDA_BACKEND
  const bool none = cuda::device_count() == 0;
#else
  const bool none = true;
#endif
  NIBBLE_CHECK(!none, "tune", "there is no GPU here{}; measure where the table is to be used",
               kHasCuda ? "" : " that this build, which is without CUDA, could use");
}

#ifdef NIBBLE_CUDA_BACKEND
// Every product of a step is planned by running it, evaluation's shapes among them.
void plan_products(const train::TrainConfig& config, Device device) {
  const std::int64_t vocab = config.model.vocab > 0 && !std::filesystem::exists(config.data.path)
                                 ? config.model.vocab
                                 : read_dataset(config.data.path).vocab_size;
  use_product_plans({});
  train::SampleStep step(config, vocab, device);
  // A second micro-batch adds to gradients, by products of their own.
  for (std::int64_t i = 0; i < std::min<std::int64_t>(config.trainer.accumulation, 2); ++i)
    step.micro_step();
  step.update();
  synchronize(device);
}

int measure(const train::TrainConfig& config, const Options& o, Device device) {
  plan_products(config, device);
  train::PlanTable table{.measured = plan_environment(device), .plans = {}};
  fmt::print("{:>9} {:>9}  {:>5}  plan, of how many, and product\n", "untuned", "tuned", "gain");
  double gains = 0;
  const auto row = [&](const cuda::MeasuredProduct& m) {
    const double gain = m.untuned_us / m.us;
    gains += std::log(gain);
    fmt::print("{:>6.1f} us {:>6.1f} us  {:.2f}x  {}, of {}: {}\n", m.untuned_us, m.us, gain,
               m.what, m.candidates, m.key);
    std::fflush(stdout);
  };
  for (const cuda::MeasuredProduct& m :
       cuda::measure_products({.repeats = o.repeats, .candidates = o.candidates, .each = row}))
    table.plans.push_back({m.key, m.plan, m.what, m.us, m.untuned_us});
  NIBBLE_CHECK(!table.plans.empty(), "tune",
               "no product of this configuration has a choice of plans");
  train::write_plan_table(o.output, table);
  fmt::print("{} products, {:.2f}x in the geometric mean; {} holds the plans {}\n",
             table.plans.size(), std::exp(gains / static_cast<double>(table.plans.size())),
             o.output, train::plan_hash(table));
  return 0;
}
#endif

int tune(const Options& o) {
  check_gpu(o.machinery.device);
  [[maybe_unused]] const Device device = o.machinery.apply();
  config::Paths files;
  for (const std::string& list : o.configs)
    for (const auto& file : config::split_files(list)) files.push_back(file);
  [[maybe_unused]] const train::TrainConfig config =
      train::read_config(config::load(files, o.overrides));
#ifdef NIBBLE_CUDA_BACKEND
  return measure(config, o, device);
#else
  return 1;
#endif
}

}  // namespace

void add_tune(CommandLine& line) {
  auto o = std::make_shared<Options>();
  CLI::App* c = line.app.add_subcommand(
      "tune",
      "Measure plans for a configuration's matrix products on the GPU; write them as a table");
  c->add_option("--config", o->configs, "Files A,B,…: later ones win; also looked for in configs/")
      ->take_all()
      ->expected(1);
  c->add_option("--set", o->overrides, "One value on top: trainer.batch=8; may be repeated")
      ->take_all()
      ->expected(1);
  c->add_option("--output", o->output, "The table, for --tune of train and eval")->required();
  c->add_option("--repeats", o->repeats, "Runs a plan; their median counts")
      ->check(CLI::Range(1, 10000))
      ->capture_default_str();
  c->add_option("--candidates", o->candidates, "Plans asked of the library for a product")
      ->check(CLI::Range(1, 256))
      ->capture_default_str();
  o->machinery.add_to(*c);
  c->callback([o, &line] { line.action = [o] { return tune(*o); }; });
}

}  // namespace nibble::cli
