// Samples of a run: drawn without a trace in its bits, one a prompt and step however it was killed.
#include "apps/train/build.h"
#include "apps/train/generate.h"
#include "apps/train/samples.h"
#include "apps/train/weights.h"
#include "data/dataset.h"
#include "train_testing.h"

namespace nibble::train {
namespace {

namespace fs = std::filesystem;
using doctest::Contains;
using test::message_of;
using test::TempDir;
using namespace testing;

const Json kSamples = {{"prompts", {"the fox ", ""}}, {"tokens", 12}};

std::vector<Json> samples_of(const Run& run) {
  return run::read_metrics(run.options.output / kSamplesFile);
}

// What the run computed: without times, and without the configuration that a checkpoint records.
std::vector<std::string> numbers_of(const Run& run) {
  std::vector<std::string> out;
  for (const Json& row : run.metrics())
    for (const char* key : {"loss", "grad_norm", "val_loss"})
      if (row.contains(key)) out.push_back(fmt::format("{} {}", key, row[key].dump()));
  return out;
}

TEST_CASE("samples: a run with samples has the bits of one without") {  // exact
  const TempDir dir;
  const auto data = make_dataset(dir);
  for (const char* recipe : {"int8", "none,weights=int8"}) {
    CAPTURE(std::string(recipe));
    const std::string name = fmt::format("{:08x}", rng_site(recipe, ""));
    Run plain(tiny_config(data, {{"recipe", recipe}}), dir / (name + "-plain"));
    Json with = {{"recipe", recipe}, {"samples", kSamples}};
    with["samples"]["every"] = 1;
    Run sampled(tiny_config(data, with), dir / (name + "-sampled"));
    CHECK(plain.go() == Outcome::Finished);
    CHECK(sampled.go() == Outcome::Finished);
    CHECK(numbers_of(sampled) == numbers_of(plain));
    Loaded a(checkpoint_path(plain.checkpoints(), 8)), b(checkpoint_path(sampled.checkpoints(), 8));
    REQUIRE(a.tensors.size() == b.tensors.size());
    for (const auto& [tensor, value] : a.tensors) {
      CAPTURE(tensor);
      CHECK(nibble::testing::same_bits(value, b[tensor]));
    }
    CHECK(!fs::exists(plain.options.output / kSamplesFile));
    CHECK(samples_of(sampled).size() == 2 * 8);
  }
}

TEST_CASE("samples: drawn with each evaluation, or at steps of their own, and at the end") {
  const TempDir dir;
  const auto data = make_dataset(dir);
  const auto steps_of = [&](const Json& changes, const std::string& name) {
    Run run(tiny_config(data, changes), dir / name);
    run.go();
    std::vector<int> steps;
    for (const Json& row : samples_of(run)) steps.push_back(row["step"]);
    return steps;
  };
  CHECK(steps_of({{"samples", kSamples}}, "eval") == std::vector<int>{4, 4, 8, 8});
  Json own = kSamples;
  own["every"] = 3;
  CHECK(steps_of({{"samples", own}}, "own") == std::vector<int>{3, 3, 6, 6, 8, 8});
  CHECK(steps_of({{"samples", kSamples}, {"trainer", {{"eval_every", 0}}}}, "end") ==
        std::vector<int>{8, 8});
}

TEST_CASE("samples: a stopped and resumed run leaves the file of one never stopped") {  // exact
  const TempDir dir;
  const auto data = make_dataset(dir);
  // Samples at steps where no checkpoint is: they come again after a resume.
  Json changes = {{"samples", kSamples}, {"trainer", {{"checkpoint_every", 3}}}};
  changes["samples"]["every"] = 2;
  const TrainConfig config = tiny_config(data, changes);
  Run whole(config, dir / "whole");
  CHECK(whole.go() == Outcome::Finished);
  const std::string expected = test::read_file(whole.options.output / kSamplesFile);
  CHECK(samples_of(whole).size() == 2 * 4);

  Run pieces(config, dir / "pieces");
  pieces.options.max_minutes = 1e-9;
  pieces.go();
  while (pieces.resume() != Outcome::Finished) {
  }
  CHECK(test::read_file(pieces.options.output / kSamplesFile) == expected);

  // Killed among the samples of the last step, behind the last checkpoint: what is missing comes.
  const fs::path file = pieces.options.output / kSamplesFile;
  for (std::size_t cut = expected.find(R"({"step":8)"); cut <= expected.size(); cut += 17) {
    CAPTURE(cut);
    std::ofstream(file, std::ios::binary) << expected.substr(0, cut);
    CHECK(pieces.resume() == Outcome::Finished);
    CHECK(test::read_file(file) == expected);
  }
  // Killed before the last checkpoint: the steps since the one before come again, once.
  fs::remove(checkpoint_path(pieces.checkpoints(), 8));
  std::ofstream(file, std::ios::app) << R"({"step":8,"pro)";
  CHECK(pieces.resume() == Outcome::Finished);
  CHECK(pieces.resume() == Outcome::Finished);  // a finished run gets nothing more
  CHECK(test::read_file(file) == expected);
}

TEST_CASE("samples: the last one is what generate draws from the last checkpoint") {  // exact
  const TempDir dir;
  const auto data = make_dataset(dir);
  Json changes = {{"recipe", "int8"}, {"samples", kSamples}};
  changes["samples"]["temperature"] = 0.7;
  const TrainConfig config = tiny_config(data, changes);
  Run run(config, dir / "run");
  run.go();
  const auto tokenizer = read_dataset_tokenizer(data);
  const auto model = build_model(config, 257, kCpu);
  load_weights(*model, Checkpoint::open(checkpoint_path(run.checkpoints(), 8)));
  const std::vector<Json> rows = samples_of(run);
  REQUIRE(rows.size() == 4);
  for (std::size_t i = 2; i < 4; ++i) {
    const Generated again =
        generate(*model, *tokenizer, 257, rows[i]["prompt"].get<std::string>(),
                 {.tokens = 12, .sampling = {.temperature = 0.7, .seed = config.trainer.seed}});
    CHECK(again.text == rows[i]["text"].get<std::string>());
    CHECK(again.tokens == rows[i]["tokens"]);
    CHECK(again.ended == rows[i]["ended"]);
  }
}

TEST_CASE("samples: may be changed by a resume, and need a text") {
  const TempDir dir;
  const auto data = make_dataset(dir);
  Run run(tiny_config(data, {{"samples", kSamples}}), dir / "run");
  run.options.max_minutes = 1e-9;
  run.go();
  run.options.max_minutes = 0;
  run.options.config = tiny_config(data, {{"samples", {{"prompts", {"jumps"}}, {"tokens", 3}}}});
  CHECK(run.resume() == Outcome::Finished);
  for (const Json& row : samples_of(run)) CHECK(row["prompt"] == "jumps");

  CHECK_THROWS_WITH(tiny_config(data, {{"samples", {{"tokens", 0}}}}),
                    Contains("samples.tokens: got 0"));
  CHECK_THROWS_WITH(tiny_config(data, {{"samples", {{"temperature", -1}}}}),
                    Contains("samples.temperature: got -1"));
  CHECK_THROWS_WITH(tiny_config(data, {{"samples", {{"prompt", "a"}}}}),
                    Contains("samples.prompt"));
}

}  // namespace
}  // namespace nibble::train
