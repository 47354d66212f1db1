// Validation loss against a computation by hand.
#include "apps/train/evaluate.h"

#include <cmath>

#include "apps/train/build.h"
#include "data/loader.h"
#include "train_testing.h"

namespace nibble::train {
namespace {

using test::TempDir;
using namespace testing;

// −log p of every token of the split but the first, by its place: windows of `length` inputs, one
// at a time.
std::vector<double> losses_by_place(LanguageModel& model, const std::filesystem::path& data,
                                    const Split& split, std::int64_t length) {
  std::vector<std::int32_t> tokens;
  for (const auto& path : shard_paths(data, split)) {
    const Shard shard(path);
    std::vector<std::int32_t> part(static_cast<std::size_t>(shard.size()));
    shard.read(0, part);
    tokens.insert(tokens.end(), part.begin(), part.end());
  }
  std::vector<double> losses(tokens.size());
  const auto last = static_cast<std::int64_t>(tokens.size()) - 1;
  for (std::int64_t begin = 0; begin < last; begin += length) {
    const std::int64_t n = std::min(length, last - begin);
    const auto from = tokens.begin() + begin;
    const std::vector<std::int32_t> inputs(from, from + n), targets(from + 1, from + 1 + n);
    const auto window =
        model.token_losses(Tensor::from(inputs, {1, n}), Tensor::from(targets, {1, n}))
            .to_vector<double>();
    for (std::int64_t i = 0; i < n; ++i)
      losses[static_cast<std::size_t>(begin + i + 1)] = window[static_cast<std::size_t>(i)];
  }
  return losses;
}

TEST_CASE("evaluate: every token counts once, whatever the batch; strata add up") {
  const TempDir dir;
  const auto data = make_dataset(dir, 0.6);
  const Dataset dataset = read_dataset(data);
  const TrainConfig config = tiny_config(data, {{"recipe", "none"}});
  const auto model = build_model(config, dataset.vocab_size, kCpu);
  const Split& val = dataset.val;
  REQUIRE(val.strata.size() == 2);
  REQUIRE((val.tokens - 1) % 24 != 0);  // a last window that is not full
  const auto losses = losses_by_place(*model, data, val, 24);
  double sum = 0;
  for (const double x : losses) sum += x;

  for (const std::int64_t batch : {1, 3, 8}) {
    CAPTURE(batch);
    const EvalResult r = evaluate(*model, data, "val", {.batch = batch});
    CHECK(r.all.tokens == val.tokens - 1);
    CHECK(r.all.nats == doctest::Approx(sum).epsilon(1e-6));
    CHECK(r.all.loss() == doctest::Approx(sum / static_cast<double>(val.tokens - 1)).epsilon(1e-6));
    CHECK(r.all.text_bytes == val.text_bytes);
    CHECK(r.all.bits_per_byte() ==
          doctest::Approx(sum / std::log(2.0) / static_cast<double>(val.text_bytes)).epsilon(1e-6));
    REQUIRE(r.strata.size() == 2);
    for (const Stratum& s : val.strata) {
      CAPTURE(s.source);
      double part = 0;
      std::int64_t tokens = 0;
      for (const Stratum::Range& range : s.ranges)
        for (std::int64_t i = std::max<std::int64_t>(range.begin, 1); i < range.end; ++i, ++tokens)
          part += losses[static_cast<std::size_t>(i)];
      CHECK(r.strata.at(s.source).tokens == tokens);
      CHECK(r.strata.at(s.source).nats == doctest::Approx(part).epsilon(1e-6));
      CHECK(r.strata.at(s.source).text_bytes == s.text_bytes);
    }
  }

  // Shorter windows see less; part of the split has no bytes to divide by.
  const EvalResult shorter = evaluate(*model, data, "val", {.batch = 4, .sequence = 8});
  double nats = 0;
  for (const double x : losses_by_place(*model, data, val, 8)) nats += x;
  CHECK(shorter.all.nats == doctest::Approx(nats).epsilon(1e-6));
  const EvalResult part = evaluate(*model, data, "val", {.batch = 2, .max_batches = 3});
  CHECK(part.all.tokens == 2 * 3 * 24);
  CHECK(part.all.text_bytes == 0);
  CHECK(part.strata.empty());
}

TEST_CASE("evaluate: leaves the model's training alone, and needs a split") {
  const TempDir dir;
  const auto data = make_dataset(dir, 0);
  const TrainConfig config = tiny_config(data);
  const auto model = build_model(config, 257, kCpu);
  CHECK_THROWS_WITH(evaluate(*model, data, "val", {}),
                    doctest::Contains("the split 'val' is empty"));
  CHECK_THROWS_AS(evaluate(*model, data, "test", {}), Error);
  const double a = evaluate(*model, data, "train", {}).all.nats;
  const double b = evaluate(*model, data, "train", {}).all.nats;
  CHECK(a == b);  // no dropout
  for (const Parameter* p : parameters(*model)) CHECK_FALSE(p->has_grad());
}

}  // namespace
}  // namespace nibble::train
