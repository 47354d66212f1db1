// The training run: what it writes, how it goes on, what it says when something is wrong.
#include <limits>

#include "apps/train/weights.h"
#include "train_testing.h"

namespace nibble::train {
namespace {

namespace fs = std::filesystem;
using doctest::Contains;
using nibble::testing::same_bits;
using test::message_of;
using test::TempDir;
using namespace testing;

bool contains(const std::string& text, std::string_view part) {
  return text.find(part) != std::string::npos;
}

TEST_CASE("train: configurations recorded before token chunks still open") {
  Json json = write_config(read_config({{"data", {{"path", "tokens"}}}}));
  json["model"]["vocab_chunk"] = 8192;
  CHECK(config_of({{"config", json}}).model.token_chunk == 0);
  CHECK_THROWS_WITH_AS(read_config(json), doctest::Contains("vocab_chunk"), Error);
}

TEST_CASE("train: recipes recorded with patterns that match no layer still open") {
  Json json = write_config(read_config({{"data", {{"path", "tokens"}}}}));
  json["recipe"] = "int8,layer:*.c_attn=none";
  CHECK(config_of({{"config", json}}).recipe == "int8,layer:*.c_attn=none");
  CHECK_THROWS_WITH_AS(read_config(json), doctest::Contains("matches no layer"), Error);
}

TEST_CASE("train: two runs, and runs at 1, 2 and 4 threads, end in equal bytes") {
  const TempDir dir;
  const auto data = make_dataset(dir);
  const nibble::testing::ThreadsGuard guard;
  Run first(tiny_config(data), dir / "first");
  CHECK(first.go() == Outcome::Finished);
  for (const int threads : {1, 2, 4}) {
    CAPTURE(threads);
    set_num_threads(threads);
    Run again(tiny_config(data), dir / fmt::format("threads{}", threads));
    CHECK(again.go() == Outcome::Finished);
    CHECK(again.final_bytes() == first.final_bytes());
  }
  Run other(tiny_config(data, {{"trainer", {{"seed", 2}}}}), dir / "other");
  other.go();
  CHECK(Loaded(checkpoint_path(other.checkpoints(), 8))["wte.weight"].to_vector() !=
        Loaded(checkpoint_path(first.checkpoints(), 8))["wte.weight"].to_vector());
}

TEST_CASE("train: telemetry leaves the bits alone, delayed scales too") {
  const TempDir dir;
  const auto data = make_dataset(dir);
  for (const char* recipe : {"int8", "fp8_delayed"}) {
    CAPTURE(std::string(recipe));
    const auto bytes = [&](int every) {
      Run run(tiny_config(data, {{"recipe", recipe},
                                 {"trainer", {{"steps", 24}, {"telemetry_every", every}}}}),
              dir / fmt::format("{}-{}", recipe, every));
      CHECK(run.go() == Outcome::Finished);
      const Checkpoint last = open_any(run.checkpoints(), [](const std::string&) {});
      std::map<std::string, std::vector<double>> all;
      for (const auto& e : last.file().entries())
        all[e.name] = last.file().read(e).to_vector<double>();
      return all;
    };
    CHECK(bytes(0) == bytes(20));
  }
}

TEST_CASE("train: a run stopped after every step ends in the bytes of one never stopped") {
  const TempDir dir;
  const auto data = make_dataset(dir);
  for (const char* recipe :
       {"int8", "none,weights=bf16,moments.m=int4:group128:packed:sr", "none,weights=int8",
        "w8a8g8,moments.m=int8:row,moments=simulated", "fp8_delayed"}) {
    CAPTURE(std::string(recipe));
    const TrainConfig config =
        tiny_config(data, {{"recipe", recipe}, {"trainer", {{"accumulation", 2}, {"batch", 2}}}});
    const std::string name = fmt::format("{:08x}", rng_site(recipe, ""));
    Run whole(config, dir / (name + "-whole"));
    CHECK(whole.go() == Outcome::Finished);
    Run pieces(config, dir / (name + "-pieces"));
    pieces.options.max_minutes = 1e-9;
    CHECK(pieces.go() == Outcome::TimeLimit);
    CHECK(contains(pieces.log, "stopped at step 1 of 8 (time limit); --resume goes on"));
    int resumed = 1;
    while (pieces.resume() != Outcome::Finished) ++resumed;
    CHECK(resumed == 7);
    CHECK(pieces.final_bytes() == whole.final_bytes());
  }
}

TEST_CASE("train: updates in backward end in the weights and states of updates at the end") {
  const TempDir dir;
  const auto data = make_dataset(dir);
  for (const char* recipe : {"int8", "none,weights=bf16", "int8,weights=int8", "fp8_delayed"})
    for (const bool checkpointed : {false, true}) {
      CAPTURE(std::string(recipe));
      CAPTURE(checkpointed);
      const auto config = [&](const char* update) {
        return tiny_config(data, {{"recipe", recipe},
                                  {"model", {{"checkpoint_blocks", checkpointed}}},
                                  {"trainer", {{"clip", 0}, {"update", update}}}});
      };
      const std::string name = fmt::format("{:08x}{}", rng_site(recipe, ""), checkpointed);
      Run at_end(config("at_end"), dir / (name + "-end"));
      Run whole(config("in_backward"), dir / (name + "-whole"));
      CHECK(at_end.go() == Outcome::Finished);
      CHECK(whole.go() == Outcome::Finished);
      const Loaded a(list_checkpoints(at_end.checkpoints()).back().path),
          b(list_checkpoints(whole.checkpoints()).back().path);
      REQUIRE(a.tensors.size() == b.tensors.size());
      for (std::size_t i = 0; i < a.tensors.size(); ++i) {
        CAPTURE(a.tensors[i].first);
        CHECK(same_bits(a.tensors[i].second, b.tensors[i].second));
      }
      Run pieces(config("in_backward"), dir / (name + "-pieces"));
      pieces.options.max_minutes = 1e-9;
      CHECK(pieces.go() == Outcome::TimeLimit);
      while (pieces.resume() != Outcome::Finished) continue;
      CHECK(pieces.final_bytes() == whole.final_bytes());
    }
}

TEST_CASE("train: updates in backward refuse what needs all gradients at once") {
  const auto message = [](const Json& trainer) {
    return message_of([&] { tiny_config("data", {{"trainer", trainer}}); });
  };
  CHECK(contains(message({{"update", "in_backward"}}),
                 "trainer.clip: got 1 expected 0 with update \"in_backward\""));
  CHECK(contains(message({{"update", "in_backward"}, {"clip", 0}, {"accumulation", 2}}),
                 "trainer.accumulation: got 2 expected 1"));
  CHECK(contains(message({{"clip_parameter", 1}}), "trainer.clip_parameter: got 1 expected 0"));
  CHECK(contains(message({{"keep_encodings", true}}),
                 "trainer.keep_encodings: got true expected false unless"));
  CHECK(contains(message({{"update", "later"}}), "trainer.update"));
}

TEST_CASE("train: updates in backward stop at a gradient that is not finite and say where") {
  const TempDir dir;
  const auto data = make_dataset(dir);
  Run run(tiny_config(data,
                      {{"recipe", "none"}, {"trainer", {{"clip", 0}, {"update", "in_backward"}}}}),
          dir / "run");
  run.options.max_minutes = 1e-9;
  run.go();
  const fs::path newest = list_checkpoints(run.checkpoints()).back().path;
  Loaded loaded(newest);
  loaded["blocks.0.mlp.fc1.weight"].data<float>()[1] = std::numeric_limits<float>::quiet_NaN();
  save_checkpoint(newest, loaded.state, loaded.tensors);
  const std::string message = message_of([&] { run.resume(); });
  CHECK_MESSAGE(contains(message, "in module 'blocks.0.mlp.fc1'"), message);
}

TEST_CASE("train: keep=0 writes no checkpoint") {
  const TempDir dir;
  const auto data = make_dataset(dir);
  Run run(tiny_config(data, {{"trainer", {{"keep", 0}}}}), dir / "run");
  CHECK(run.go() == Outcome::Finished);
  CHECK(list_checkpoints(run.checkpoints()).empty());
  CHECK(run.metrics().back().contains("val_loss"));
}

TEST_CASE("train: accumulation over two micro-batches equals the whole batch") {
  const TempDir dir;
  const auto data = make_dataset(dir);
  const auto losses = [&](int batch, int accumulation) {
    // Without noise: dropout's draws belong to the micro-batch.
    Run run(tiny_config(data, {{"recipe", "none"},
                               {"model", {{"dropout", 0}}},
                               {"optimizer", {{"type", "sgd"}}},
                               {"trainer",
                                {{"lr", 0.1}, {"batch", batch}, {"accumulation", accumulation}}}}),
            dir / fmt::format("{}x{}", batch, accumulation));
    CHECK(run.go() == Outcome::Finished);
    std::vector<double> out;
    for (const Json& row : run.metrics())
      if (row.contains("loss")) {
        out.push_back(row["loss"]);
        out.push_back(row["grad_norm"]);
        CHECK(row["tokens"] == row["step"].get<int>() * 8 * 24);
      }
    return out;
  };
  const auto whole = losses(8, 1), halves = losses(4, 2), singles = losses(1, 8);
  REQUIRE(whole.size() == 16);
  for (std::size_t i = 0; i < whole.size(); ++i) {
    CHECK(halves[i] == doctest::Approx(whole[i]).epsilon(1e-5));
    CHECK(singles[i] == doctest::Approx(whole[i]).epsilon(1e-5));
  }
  CHECK(whole[14] < whole[0]);
}

// ---- checkpoints -----------------------------------------------------------------------------

TEST_CASE("train: the last k checkpoints are kept") {
  const TempDir dir;
  const auto data = make_dataset(dir);
  Run run(tiny_config(data), dir / "run");
  run.go();
  const auto kept = list_checkpoints(run.checkpoints());
  REQUIRE(kept.size() == 2);
  CHECK(kept[0].step == 6);
  CHECK(kept[1].step == 8);
  Run all(tiny_config(data, {{"trainer", {{"keep", 100}}}}), dir / "all");
  all.go();
  CHECK(list_checkpoints(all.checkpoints()).size() == 4);
  CHECK(list_checkpoints(all.checkpoints()).front().step == 2);
  Run end(tiny_config(data, {{"trainer", {{"checkpoint_every", 0}}}}), dir / "end");
  end.go();
  CHECK(list_checkpoints(end.checkpoints()).size() == 1);
}

TEST_CASE("train: pruning keeps other files and removes what a killed writer left") {
  const TempDir dir;
  for (const char* name :
       {"step_00000001.safetensors", "step_00000002.safetensors", "step_00000010.safetensors",
        "step_x.safetensors", "notes.txt", "step_00000011.safetensors.tmp.999999-0"})
    dir.write(name, "x");
  prune_checkpoints(dir / "", 2);
  std::vector<std::int64_t> steps;
  for (const auto& c : list_checkpoints(dir / "")) steps.push_back(c.step);
  CHECK(steps == std::vector<std::int64_t>{2, 10});
  CHECK(fs::exists(dir / "notes.txt"));
  CHECK(fs::exists(dir / "step_x.safetensors"));
  CHECK_FALSE(fs::exists(dir / "step_00000011.safetensors.tmp.999999-0"));
  CHECK(list_checkpoints(dir / "absent").empty());
}

TEST_CASE("train: resume passes over a damaged checkpoint, saying so, to the same end") {
  const TempDir dir;
  const auto data = make_dataset(dir);
  Run run(tiny_config(data), dir / "run");
  run.go();
  const std::string end = run.final_bytes();
  const fs::path newest = list_checkpoints(run.checkpoints()).back().path;
  fs::resize_file(newest, fs::file_size(newest) - 100);
  CHECK(run.resume() == Outcome::Finished);
  CHECK(contains(run.log, "warning: checkpoint: "));
  CHECK(contains(run.log, "trying the one before"));
  CHECK(contains(run.log, "at step 6"));
  CHECK(run.final_bytes() == end);

  for (const auto& c : list_checkpoints(run.checkpoints())) fs::resize_file(c.path, 50);
  CHECK_THROWS_WITH(run.resume(), Contains("holds no intact checkpoint"));
  for (const auto& c : list_checkpoints(run.checkpoints())) fs::remove(c.path);
  CHECK(run.resume() == Outcome::Finished);
  CHECK(contains(run.log, "has no checkpoint yet: beginning at step 0"));
  CHECK(run.final_bytes() == end);
}

TEST_CASE("train: a checkpoint of a newer version is an error, not damage") {
  const TempDir dir;
  save_checkpoint(checkpoint_path(dir / "", 1), {{"step", 1}}, {});
  write_safetensors(checkpoint_path(dir / "", 2), {},
                    {{"nibble", R"({"version":99,"xxh64":"0"})"}, {"state", "{}"}});
  CHECK_THROWS_WITH(open_newest(dir / "", warn_nobody), Contains("newer version: got format 99"));
  fs::remove(checkpoint_path(dir / "", 2));
  CHECK(open_any(dir / "", warn_nobody).state()["step"] == 1);
  CHECK(open_any(checkpoint_path(dir / "", 1), warn_nobody).state()["step"] == 1);
  CHECK_THROWS_WITH(open_any(dir / "absent", warn_nobody), Contains("does not exist"));
}

TEST_CASE("train: metrics and events are cut back to the checkpoint and grow anew") {
  const TempDir dir;
  const auto data = make_dataset(dir);
  Run run(tiny_config(data, {{"trainer", {{"keep", 100}}}}), dir / "run");
  run.go();
  const auto before = run.metrics();
  for (const auto& c : list_checkpoints(run.checkpoints()))
    if (c.step > 2) fs::remove(c.path);
  run.resume();
  const auto after = run.metrics();
  REQUIRE(before.size() == after.size());
  for (std::size_t i = 0; i < before.size(); ++i) {
    for (const char* key : {"step", "loss", "grad_norm", "lr", "val_loss", "val_bits_per_byte"}) {
      CAPTURE(std::string(key));
      CHECK(before[i].contains(key) == after[i].contains(key));
      if (before[i].contains(key)) CHECK(before[i][key] == after[i][key]);
    }
  }
}

TEST_CASE("train: resuming a finished run changes nothing of it") {
  const TempDir dir;
  const auto data = make_dataset(dir);
  Run run(tiny_config(data), dir / "run");
  run.go();
  const auto before = run.metrics();
  const std::string bytes = run.final_bytes();
  for (int i = 0; i < 2; ++i) CHECK(run.resume() == Outcome::Finished);
  CHECK(run.metrics() == before);
  CHECK(run.final_bytes() == bytes);
}

// ---- --init ----------------------------------------------------------------------------------

TEST_CASE("train: --init takes the weights alone, however they are stored") {
  const TempDir dir;
  const auto data = make_dataset(dir);
  const auto begin = [&](const char* recipe, const char* name, const fs::path& init) {
    Run run(tiny_config(data, {{"recipe", recipe}, {"trainer", {{"keep", 100}}}}), dir / name);
    run.options.init = init;
    CHECK(run.go() == Outcome::Finished);
    return Loaded(checkpoint_path(run.checkpoints(), init.empty() ? 8 : 0));
  };
  Loaded source = begin("int8", "source", {});
  Loaded same = begin("none", "same", dir / "source");
  for (const auto& [name, tensor] : source.tensors) {
    if (name.find('/') != std::string::npos) continue;
    CAPTURE(name);
    CHECK(same_bits(same[name], tensor));
  }
  CHECK(same["optimizer/updates"].item() == 0);
  CHECK(same.state["position"] == 0);

  Loaded half = begin("none,weights=bf16", "half", dir / "source");
  CHECK(same_bits(half["wte.weight"], source["wte.weight"].to(DType::BF16)));
  Loaded coded = begin("none,weights=int8", "coded", dir / "source");
  QuantSpec row;
  row.tile = kPerRow;
  const QTensor nearest = quantize(source["wte.weight"], row);
  CHECK(same_bits(coded["wte.weight/codes"], nearest.payload()));
  CHECK(same_bits(coded["wte.weight/scales"], nearest.scales()));
  Loaded again =
      begin("none,weights=int8", "again", dir / "coded/checkpoints/step_00000000.safetensors");
  CHECK(same_bits(again["wte.weight/codes"], coded["wte.weight/codes"]));
  Loaded dense = begin("none", "dense", dir / "coded/checkpoints/step_00000000.safetensors");
  CHECK(same_bits(dense["wte.weight"], dequantize(nearest)));
}

TEST_CASE("train: --init refuses what does not fit, before a folder is begun") {
  const TempDir dir;
  const auto data = make_dataset(dir);
  Run source(tiny_config(data), dir / "source");
  source.go();
  Run wide(tiny_config(data, {{"model", {{"width", 64}}}}), dir / "wide");
  wide.options.init = dir / "source";
  CHECK_THROWS_WITH(wide.go(), Contains("'wte.weight' has shape"));
  Loaded other(checkpoint_path(source.checkpoints(), 8));
  other.state["vocab"] = 50257;
  save_checkpoint(dir / "other.safetensors", other.state, other.tensors);
  Run foreign(tiny_config(data), dir / "foreign");
  foreign.options.init = dir / "other.safetensors";
  CHECK_THROWS_WITH(foreign.go(), Contains("know a vocabulary of 50257 tokens, expected the 257"));
  foreign.options.init = dir / "absent";
  CHECK_THROWS_WITH(foreign.go(), Contains("absent does not exist"));
  // Nothing is in the way of the next try.
  foreign.options.init.clear();
  CHECK(foreign.go() == Outcome::Finished);
}

// ---- errors ----------------------------------------------------------------------------------

TEST_CASE("train: what does not fit is said in one line and leaves no folder") {
  const TempDir dir;
  const auto data = make_dataset(dir);
  const auto message = [&](const Json& changes) {
    const std::string text = message_of([&] { Run(tiny_config(data, changes), dir / "run").go(); });
    CHECK_FALSE(fs::exists(dir / "run"));
    CHECK(text.find('\n') == std::string::npos);
    return text;
  };
  CHECK(contains(message({{"model", {{"vocab", 100}}}}),
                 "model.vocab: got 100, expected at least the 257 tokens"));
  CHECK(contains(message({{"data", {{"sequence", 25}}}}),
                 "data.sequence: got 25 tokens, expected at most the context of 24"));
  CHECK(contains(message({{"data", {{"path", (dir / "absent").string()}}}}), "absent"));
  CHECK(contains(
      message({{"data", {{"sequence", 24}}}, {"model", {{"context", 100000}}}, {"recipe", "int9"}}),
      "int9"));
}

TEST_CASE("train: resume refuses other data and another optimizer") {
  const TempDir dir, elsewhere;
  const auto data = make_dataset(dir);
  const auto other = make_dataset(elsewhere, 0.6);
  Run run(tiny_config(data), dir / "run");
  run.go();
  Run moved(tiny_config(other), dir / "run");
  CHECK_THROWS_WITH(moved.resume(), Contains("holds other data than the run was trained on"));
  Run sgd(tiny_config(data, {{"optimizer", {{"type", "sgd"}}}}), dir / "run");
  CHECK_THROWS_WITH(sgd.resume(), Contains("got optimizer sgd, expected adamw"));
  Run fresh(tiny_config(data), dir / "run");
  CHECK_THROWS_WITH(fresh.go(), Contains("already holds a run"));
}

TEST_CASE("train: a value that is not finite stops the run and names where it came from") {
  const TempDir dir;
  const auto data = make_dataset(dir);
  for (const char* name : {"blocks.0.mlp.fc1.weight", "ln_f.bias", "wpe.weight"}) {
    CAPTURE(std::string(name));
    Run run(tiny_config(data, {{"recipe", "none"}}), dir / name);
    run.options.max_minutes = 1e-9;
    run.go();
    const fs::path newest = list_checkpoints(run.checkpoints()).back().path;
    Loaded loaded(newest);
    loaded[name].data<float>()[1] = std::numeric_limits<float>::quiet_NaN();
    save_checkpoint(newest, loaded.state, loaded.tensors);
    const std::string message = message_of([&] { run.resume(); });
    const std::string module(name, std::string_view(name).rfind('.'));
    CHECK_MESSAGE(contains(message, module), message);
    CHECK(contains(message, "step 1: the loss is nan"));
    CHECK(contains(message, "the last checkpoint is at step 1"));
    CHECK(message.find('\n') == std::string::npos);
  }
}

TEST_CASE("train: with on_not_finite=skip bad steps are left out and counted") {
  const TempDir dir;
  const auto data = make_dataset(dir);
  // The first update throws the weights far off; from then on nothing is finite.
  Run run(tiny_config(data, {{"recipe", "none"},
                             {"optimizer", {{"type", "sgd"}}},
                             {"trainer",
                              {{"lr", 1e38},
                               {"warmup", 0},
                               {"schedule", "constant"},
                               {"clip", 0},
                               {"on_not_finite", "skip"},
                               {"eval_every", 0}}}}),
          dir / "run");
  CHECK(run.go() == Outcome::Finished);
  Json last;
  for (const Json& row : run.metrics())
    if (row.contains("loss")) last = row;
  CHECK(last["step"] == 8);
  CHECK(last["skipped"] == 7);
  CHECK(last["loss"].is_null());
  Loaded end(checkpoint_path(run.checkpoints(), 8));
  CHECK(end["optimizer/updates"].item() == 1);
  CHECK(end["optimizer/skipped"].item() == 7);
}

}  // namespace
}  // namespace nibble::train
