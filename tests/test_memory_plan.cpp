// The plan of a step beside what was measured, and what is said where it does not fit.
#include "apps/cli/memory_fit.h"
#include "apps/cli/memory_plan.h"
#include "apps/config/jsonnet.h"
#include "data/dataset.h"
#include "tensor/out_of_memory.h"
#include "train_testing.h"

namespace nibble::cli {
namespace {

using test::TempDir;
using namespace train::testing;
using nibble::testing::error_of;
using Overrides = std::vector<std::string>;
constexpr Device kCuda = cuda_device();

train::TrainConfig config_of(const std::string& file, Overrides overrides,
                             const std::string& recipe) {
  overrides.push_back("recipe=" + recipe);
  Json text = config::load({file}, overrides);
  text["data"] = {{"path", ""}};
  return train::read_config(text);
}
bool has(const std::string& text, std::string_view part) {
  return text.find(part) != std::string::npos;
}
MemoryPlan plan_of(const std::string& file, const Overrides& overrides, const std::string& recipe) {
  const train::TrainConfig config = config_of(file, overrides, recipe);
  return plan_memory(config, config.model.vocab, kCuda);
}

// On an H200 (tests/bench/results/2026-11-30-memory-plan.md), MiB.
struct Measured {
  const char* file;
  Overrides overrides;
  const char* recipe;
  double tensors, process;
};
constexpr const char* kHead = "int8,lm_head=on";
const Overrides kOne{"trainer.accumulation=1", "trainer.warmup=10"};
Overrides one(Overrides more) {
  more.insert(more.end(), kOne.begin(), kOne.end());
  return more;
}
const Measured kMeasured[] = {
    {"gpt2_protocol.jsonnet", {}, "none", 12060.3, 12900.2},  // gave kGpuLibrary
    {"gpt2_protocol.jsonnet", {"trainer.batch=4"}, "none", 3848.7, 4320.2},
    {"gpt2_protocol.jsonnet", {"trainer.batch=4"}, kHead, 3105.9, 3514.2},
    {"gpt2_protocol.jsonnet", {}, "int8", 7897.0, 8730.2},
    {"gpt2_protocol.jsonnet", {}, kHead, 8297.2, 8796.2},
    {"gpt2_protocol.jsonnet", {"model.token_chunk=2048"}, kHead, 7901.1, 8316.2},
    {"gpt2_protocol.jsonnet",
     {"model.token_chunk=2048", "model.recompute=mlp"},
     kHead,
     5597.1,
     6076.2},
    {"gpt2_protocol.jsonnet", {}, "fp8_tensorwise", 10620.3, 11476.2},
    {"gpt2_protocol.jsonnet", {"trainer.batch=64"}, "none", 21444.9, 22212.2},
    {"gpt2_protocol.jsonnet", {"trainer.batch=64"}, "int8", 13876.0, 14746.2},
    {"gpt2_protocol.jsonnet", {"trainer.batch=64"}, kHead, 14226.7, 14780.2},
    {"gpt2_protocol.jsonnet", {"trainer.accumulation=16"}, "none", 12064.0, 12922.2},
    {"gpt2_protocol.jsonnet", {"trainer.accumulation=16"}, kHead, 8300.9, 8818.2},
    {"gpt2_protocol.jsonnet", {"model.context=4096", "trainer.batch=8"}, "none", 12096.3, 12954.2},
    {"gpt2_protocol.jsonnet", {"model.context=4096", "trainer.batch=8"}, kHead, 8319.8, 8836.2},
    {"gpt2_medium.jsonnet", one({"trainer.batch=16"}), "none", 19093.6, 19902.2},
    {"gpt2_medium.jsonnet", one({"trainer.batch=16"}), kHead, 12869.3, 13472.2},
    {"gpt2_large.jsonnet", one({"trainer.batch=16"}), "none", 37138.6, 37628.2},
    {"gpt2_large.jsonnet", one({"trainer.batch=16"}), kHead, 24514.1, 25194.2},
    {"gpt2_xl.jsonnet", one({"trainer.batch=8"}), "none", 46755.0, 47700.2},
    {"gpt2_xl.jsonnet", one({"trainer.batch=8"}), kHead, 31110.6, 31780.2},
    {"gpt2_xl.jsonnet", one({"trainer.batch=16"}), "none", 66073.7, 66742.2},
    {"gpt2_xl.jsonnet", one({"trainer.batch=16"}), kHead, 43229.5, 44138.2},
    {"gpt2_xl.jsonnet",
     one({"trainer.batch=8", "model.token_chunk=2048", "model.recompute=mlp",
          "model.recompute_blocks=40"}),
     kHead, 26714.9, 27348.2},
    {"gpt2_xl.jsonnet", one({"trainer.batch=8", "model.token_chunk=2048", "model.recompute=sums"}),
     "int8,lm_head=on,weights=bf16", 18145.8, 18788.2},
};

}  // namespace

TEST_CASE("memory plan: within 3 % of what a process was measured to take") {
  for (const Measured& m : kMeasured) {
    const MemoryPlan plan = plan_of(m.file, m.overrides, m.recipe);
    const double mib = 1 << 20;
    INFO(m.file, " ", m.recipe, ", tensors of ", m.tensors);
    CHECK(static_cast<double>(plan.peak) / mib == doctest::Approx(m.tensors).epsilon(0.001));
    CHECK(static_cast<double>(process_memory(plan, kCuda)) / mib ==
          doctest::Approx(m.process).epsilon(0.03));
  }
}

TEST_CASE("memory plan: updates are a GPU's there, a CPU's with their scratch here") {
  const train::TrainConfig largest =
      config_of("largest.jsonnet", {"model.vocab=50257"}, "int8,weights=int8");
  const double measured = 105760865436;  // tests/bench/results/2026-11-30-150M.md, bytes of tensors
  CHECK(static_cast<double>(plan_memory(largest, 50257, kCuda).peak) ==
        doctest::Approx(measured).epsilon(0.001));
  CHECK(static_cast<double>(plan_memory(largest, 50257, kCpu).peak) > 1.01 * measured);
}

TEST_CASE("memory plan: one does not depend on those before it") {
  const auto plan = [] { return plan_of("gpt2.jsonnet", {"trainer.batch=4"}, "int8"); };
  const MemoryPlan first = plan();
  plan_of("gpt2.jsonnet", {"trainer.batch=7"}, "none");
  const MemoryPlan again = plan();
  CHECK(again.held == first.held);
  CHECK(again.categories == first.categories);
}

TEST_CASE("memory plan: a process on a GPU takes more than its tensors, on a CPU they are all") {
  MemoryPlan plan;
  plan.peak = std::int64_t{8} << 30, plan.held = plan.peak + (100 << 20);
  CHECK(process_memory(plan, kCuda) == plan.held + kGpuContext);
  plan.float_products = true;
  CHECK(process_memory(plan, kCuda) == plan.held + kGpuContext + kGpuLibrary);
  CHECK(process_memory(plan, kCpu) == plan.peak);
}

TEST_CASE("memory plan: a run is held against what is free now and what it has already") {
  const TempDir dir;
  train::TrainOptions options;
  options.config = tiny_config(make_dataset(dir));
  options.output = dir / "run";
  options.device = kCuda;
  const std::int64_t vocab = read_dataset(options.config.data.path).vocab_size;
  const std::int64_t needed =
      process_memory(plan_memory(options.config, vocab, options.device), kCuda);
  CHECK_NOTHROW(check_plan(options, {.free = needed, .own = 0, .total = needed}));
  CHECK_NOTHROW(check_plan(options, {.free = needed - 1000, .own = 1000, .total = 2 * needed}));
  const auto told = [&](const Room& room) { return error_of([&] { check_plan(options, room); }); };
  // The device would be large enough.
  const std::string busy = told({.free = needed / 2, .own = 1000, .total = 2 * needed});
  CHECK(busy.starts_with(fmt::format(
      "allocate: memory is short: got {} free of the {} of cuda:0 (others use {}), the plan needs "
      "{}; what would fit: ",
      size_text(needed / 2), size_text(2 * needed), size_text(2 * needed - needed / 2 - 1000),
      size_text(needed))));
  const std::string small = told({.free = needed / 2, .own = 1000, .total = needed / 2 + 1000});
  CHECK(small.starts_with(
      fmt::format("allocate: memory is short: got {} free of the {} of cuda:0, "
                  "the plan needs {}; what would fit: ",
                  size_text(needed / 2), size_text(needed / 2 + 1000), size_text(needed))));
  // What would fit, fits into both.
  options.device = kCpu;
  const std::int64_t peak = plan_memory(options.config, vocab, options.device).peak;
  const Room room{.free = peak - 1001, .own = 1000, .total = peak};
  CHECK(has(told(room), "--set trainer.batch=2 --set trainer.accumulation=2"));
}

TEST_CASE("memory plan: weights of fewer bits are offered where they would fit") {
  const auto offer = [](const Overrides& overrides, const std::string& recipe, std::int64_t gib) {
    const train::TrainConfig config = config_of("gpt2_xl.jsonnet", overrides, recipe);
    return what_would_fit(config, config.model.vocab, kCuda, gib << 30);
  };
  const Overrides two{"trainer.batch=2"};
  CHECK(has(offer(two, "int8", 20), " with --set recipe=int8,weights=bf16"));
  CHECK(has(offer(two, "int8", 20), "; or "));
  CHECK(has(offer(two, "int8,lm_head=on", 20), " with --set recipe=int8,lm_head=on,weights=bf16"));
  // One that would not fit is not told, nor what is there already; none is quantized as a whole.
  CHECK_FALSE(has(offer({"trainer.batch=64"}, "int8", 100), "weights="));
  CHECK_FALSE(has(offer({"trainer.batch=64"}, "int8,weights=int8", 100), "recipe="));
  CHECK(has(offer({"trainer.batch=8"}, "none", 34), " with --set recipe=int8"));
  // Together: one recipe, with all that is asked of it.
  const std::string all = offer({"trainer.batch=1"}, "none", 18);
  CHECK(has(all, "--set recipe=int8,weights=bf16"));
  CHECK(all.find("recipe=") == all.rfind("recipe="));
}

}  // namespace nibble::cli
