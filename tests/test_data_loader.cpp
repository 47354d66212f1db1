#include <doctest/doctest.h>

#include <algorithm>
#include <numeric>
#include <set>

#include "data/loader.h"
#include "data/permutation.h"
#include "temp_dir.h"
#include "tensor/check.h"

using namespace nibble;
using nibble::test::message_of;
using nibble::test::TempDir;

namespace {

// Shards whose token i is i: a window's content shows where it was read.
class Counting {
 public:
  explicit Counting(std::int32_t tokens, std::int64_t per_shard = 97) {
    std::vector<std::int32_t> ids(static_cast<std::size_t>(tokens));
    std::iota(ids.begin(), ids.end(), 0);
    ShardWriter writer(dir_ / "", "train", TokenWidth::U16, per_shard);
    writer.write(ids);
    writer.finish();
    for (const std::string& name : writer.names()) paths_.push_back(dir_ / name);
  }
  const std::vector<std::filesystem::path>& paths() const { return paths_; }

 private:
  TempDir dir_;
  std::vector<std::filesystem::path> paths_;
};

LoaderOptions shuffled(std::int64_t batch, std::int64_t length, std::uint64_t seed = 1) {
  return {.batch = batch, .length = length, .vocab_size = 65536, .seed = seed};
}

LoaderOptions sequential(std::int64_t batch, std::int64_t length) {
  LoaderOptions options = shuffled(batch, length);
  options.order = WindowOrder::Sequential;
  return options;
}

struct Seen {
  std::vector<std::int32_t> inputs, targets;
  std::vector<std::int64_t> begins;
  std::int64_t position;
  bool operator==(const Seen&) const = default;
};
Seen copy(const Batch& batch) {
  return {{batch.inputs.begin(), batch.inputs.end()},
          {batch.targets.begin(), batch.targets.end()},
          {batch.begins.begin(), batch.begins.end()},
          batch.position};
}
std::vector<Seen> take(TokenLoader& loader, int batches) {
  std::vector<Seen> seen;
  for (int i = 0; i < batches; ++i) seen.push_back(copy(loader.next()));
  return seen;
}

}  // namespace

TEST_CASE("data: the permutation is one, for every size, seed and round") {
  for (const std::int64_t size : {1, 2, 3, 4, 5, 16, 17, 63, 64, 65, 1000, 4097}) {
    for (const std::uint64_t round : {0, 1}) {
      const Permutation permutation(size, 42, round);
      std::vector<bool> hit(static_cast<std::size_t>(size));
      for (std::int64_t i = 0; i < size; ++i) {
        const std::int64_t to = permutation(i);
        REQUIRE((to >= 0 && to < size));
        CHECK(!hit[static_cast<std::size_t>(to)]);
        hit[static_cast<std::size_t>(to)] = true;
      }
    }
  }
  // Far beyond any table, and mixed: neighbours do not stay neighbours.
  const Permutation large(std::int64_t{1} << 45, 7, 3);
  std::int64_t near = 0;
  for (std::int64_t i = 0; i < 1000; ++i) near += std::abs(large(i + 1) - large(i)) < (1ll << 30);
  CHECK(near < 5);
}

TEST_CASE("data: an epoch shows every window once, shifted and in an order of its own") {
  const Counting data(1000);
  TokenLoader loader(data.paths(), shuffled(3, 16));
  const std::int64_t windows = loader.windows();
  CHECK(windows == 61);
  std::set<std::int64_t> offsets;
  std::vector<std::vector<std::int64_t>> orders;
  // 3 does not divide 61: batches run across the epochs' borders.
  std::vector<std::int64_t> begins;
  while (begins.size() < static_cast<std::size_t>(8 * windows)) {
    const Batch& batch = loader.next();
    for (std::size_t row = 0; row < 3; ++row) {
      const std::int64_t begin = batch.begins[row];
      for (std::size_t t = 0; t < 16; ++t) {
        REQUIRE(batch.inputs[row * 16 + t] == begin + static_cast<std::int64_t>(t));
        REQUIRE(batch.targets[row * 16 + t] == begin + static_cast<std::int64_t>(t) + 1);
      }
      begins.push_back(begin);
    }
  }
  for (int epoch = 0; epoch < 8; ++epoch) {
    std::vector<std::int64_t> order(begins.begin() + epoch * windows,
                                    begins.begin() + (epoch + 1) * windows);
    orders.push_back(order);
    std::sort(order.begin(), order.end());
    offsets.insert(order[0]);
    CHECK(order[0] < 16);
    for (std::size_t i = 1; i < order.size(); ++i) CHECK(order[i] == order[i - 1] + 16);
    CHECK(!std::is_sorted(orders.back().begin(), orders.back().end()));
  }
  CHECK(offsets.size() > 3);
  CHECK(orders[0] != orders[1]);
}

TEST_CASE("data: batches follow from seed and position alone") {
  const Counting data(1000), same(1000, 13);
  TokenLoader first(data.paths(), shuffled(4, 8)), again(same.paths(), shuffled(4, 8));
  const std::vector<Seen> all = take(first, 100);
  CHECK(all == take(again, 100));
  CHECK(first.position() == 400);
  CHECK(first.epoch() == 400 / first.windows());

  TokenLoader other(data.paths(), shuffled(4, 8, 2));
  CHECK(take(other, 100) != all);

  // Back, ahead, over an epoch's border, and to where it stands already.
  for (const int step : {7, 99, 31, 0, 1}) {
    again.seek(4 * step);
    CHECK(again.position() == 4 * step);
    CHECK(copy(again.next()) == all[static_cast<std::size_t>(step)]);
  }
  TokenLoader resumed(data.paths(), shuffled(4, 8));
  resumed.seek(4 * 50);
  CHECK(take(resumed, 50) == std::vector<Seen>(all.begin() + 50, all.end()));
}

TEST_CASE("data: prefetching does not move the position") {
  const Counting data(500);
  TokenLoader loader(data.paths(), shuffled(2, 8));
  CHECK(loader.position() == 0);
  loader.next();
  CHECK(loader.position() == 2);
  CHECK(loader.next().position == 2);
  CHECK(loader.position() == 4);
}

TEST_CASE("data: ranks share one global order") {
  const Counting data(1000);
  TokenLoader whole(data.paths(), shuffled(6, 8));
  LoaderOptions part = shuffled(2, 8);
  part.world = 3;
  std::vector<std::unique_ptr<TokenLoader>> ranks;
  for (part.rank = 0; part.rank < 3; ++part.rank) {
    ranks.push_back(std::make_unique<TokenLoader>(data.paths(), part));
  }
  for (int step = 0; step < 50; ++step) {
    const Seen expected = copy(whole.next());
    std::vector<std::int32_t> inputs, targets;
    for (const auto& rank : ranks) {
      const Batch& batch = rank->next();
      CHECK(batch.position == expected.position);
      CHECK(rank->position() == whole.position());
      inputs.insert(inputs.end(), batch.inputs.begin(), batch.inputs.end());
      targets.insert(targets.end(), batch.targets.begin(), batch.targets.end());
    }
    CHECK(inputs == expected.inputs);
    CHECK(targets == expected.targets);
  }
}

TEST_CASE("data: evaluation predicts every token but the first, once") {
  for (const std::int32_t tokens : {2, 16, 17, 18, 33, 100, 129}) {
    for (const std::int64_t world : {1, 2}) {
      CAPTURE(tokens);
      const Counting data(tokens, 31);
      std::vector<int> predicted(static_cast<std::size_t>(tokens), 0);
      for (std::int64_t rank = 0; rank < world; ++rank) {
        LoaderOptions options = sequential(3, 16);
        options.world = world;
        options.rank = rank;
        TokenLoader loader(data.paths(), options);
        CHECK(loader.windows() == (tokens - 1 + 15) / 16);
        while (!loader.done()) {
          const Batch& batch = loader.next();
          for (std::size_t i = 0; i < batch.targets.size(); ++i) {
            if (batch.targets[i] == kNoTarget) {
              CHECK(batch.inputs[i] == 0);
              continue;
            }
            const auto place = batch.begins[i / 16] + static_cast<std::int64_t>(i % 16);
            REQUIRE(batch.inputs[i] == place);
            REQUIRE(batch.targets[i] == place + 1);
            ++predicted[static_cast<std::size_t>(batch.targets[i])];
          }
        }
        CHECK(message_of([&] { loader.next(); }).find("read to its end") != std::string::npos);
        loader.seek(0);
        CHECK(!loader.done());
      }
      CHECK(predicted[0] == 0);
      CHECK(std::count(predicted.begin() + 1, predicted.end(), 1) == tokens - 1);
    }
  }
}

TEST_CASE("data: a split of one window, and one too short for any") {
  for (const std::int32_t tokens : {9, 12, 16, 17}) {
    const Counting data(tokens);
    TokenLoader loader(data.paths(), shuffled(2, 8));
    CHECK(loader.windows() == 1);
    for (int i = 0; i < 20; ++i) {
      const Batch& batch = loader.next();
      CHECK(batch.begins[0] + 8 < tokens);
    }
  }
  const Counting data(8);
  CHECK(message_of([&] { TokenLoader loader(data.paths(), shuffled(2, 8)); }) ==
        "loader: got 8 tokens expected at least 9, one window of length 8 and its last target; "
        "hint: more text or a shorter length");
  const Counting one(1);
  CHECK(message_of([&] { TokenLoader loader(one.paths(), sequential(2, 8)); }) ==
        "loader: got 1 tokens expected at least 2, one to predict");
}

TEST_CASE("data: the prefetching thread's error comes out of next(), until a seek") {
  const Counting data(1000);
  LoaderOptions options = sequential(1, 100);
  options.vocab_size = 250;
  TokenLoader loader(data.paths(), options);
  loader.next();
  loader.next();
  for (int i = 0; i < 2; ++i) {
    CHECK(message_of([&] { loader.next(); })
              .ends_with("train_000002.bin: got token 250 at offset 56 expected less than the "
                         "vocabulary's 250"));
  }
  CHECK(loader.position() == 2);
  loader.seek(1);
  CHECK(loader.next().inputs[0] == 100);
}

TEST_CASE("data: loader options that cannot be are refused") {
  const Counting data(100);
  const auto error = [&](auto&& change) {
    LoaderOptions options = shuffled(2, 8);
    change(options);
    return message_of([&] { TokenLoader loader(data.paths(), options); });
  };
  CHECK(error([](auto&) {}) == "");
  CHECK(error([](auto& o) { o.batch = 0; }).starts_with("loader: got batch 0"));
  CHECK(error([](auto& o) { o.length = -1; }).starts_with("loader: got batch 2 and length -1"));
  CHECK(error([](auto& o) { o.vocab_size = 0; }).starts_with("data: got a vocabulary of 0"));
  CHECK(error([](auto& o) { o.rank = 1; }).starts_with("loader: got rank 1 of 1"));
  TokenLoader loader(data.paths(), shuffled(2, 8));
  CHECK(message_of([&] { loader.seek(-1); }).starts_with("loader: got position -1"));
}

TEST_CASE("data: batches lie on cache lines, in buffers that are used again") {
  const Counting data(1000);
  TokenLoader loader(data.paths(), shuffled(3, 7));
  std::set<const void*> places;
  for (int i = 0; i < 20; ++i) {
    const Batch& batch = loader.next();
    for (const void* place : {static_cast<const void*>(batch.inputs.data()),
                              static_cast<const void*>(batch.targets.data())}) {
      CHECK(reinterpret_cast<std::uintptr_t>(place) % 64 == 0);
      places.insert(place);
    }
  }
  CHECK(places.size() == 4);
}
