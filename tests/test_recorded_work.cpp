// What recorded steps rest on, as far as a machine without a GPU can tell. Tier: exact.
#include <doctest/doctest.h>

#include <set>

#include "tensor/profile.h"
#include "tensor/recorded_work.h"
#include "tensor/step_state.h"
#include "tensor/tensor.h"

using namespace nibble;

// The sanitized heap hands every block back to the system: it has nothing to share out.
#ifndef NIBBLE_SANITIZED
TEST_CASE("memory pool: its blocks come back to it alone") {
  const auto block = [](std::int64_t n = 4099) { return Tensor::empty({n}); };
  MemoryPool pool(kCpu);
  std::set<const std::byte*> inside;
  {
    const MemoryPool::Use use(pool);
    const Tensor a = block(), b = block();
    inside = {a.raw(), b.raw()};
  }
  std::vector<Tensor> others;
  for (int i = 0; i < 8; ++i) {
    others.push_back(block());
    CHECK_FALSE(inside.contains(others.back().raw()));
  }
  const MemoryPool::Use again(pool);
  const Tensor a = block(), b = block();
  CHECK(inside == std::set<const std::byte*>{a.raw(), b.raw()});
}

TEST_CASE("memory pool: cached blocks that were not needed go back, used ones do not") {
  std::vector<const std::byte*> cached;
  {
    const Tensor a = Tensor::empty({8209}), b = Tensor::empty({8209});
    cached = {a.raw(), b.raw()};
  }
  MemoryPool pool(kCpu);
  const std::byte* used = nullptr;
  {
    const MemoryPool::Use use(pool);
    used = Tensor::empty({8209}).raw();
  }
  CHECK(std::find(cached.begin(), cached.end(), used) != cached.end());
  const Tensor next = Tensor::empty({8209}), other = Tensor::empty({8209});
  CHECK(next.raw() != used);
  CHECK(other.raw() != used);
  CHECK(std::find(cached.begin(), cached.end(), next.raw()) != cached.end());
}

TEST_CASE("memory pool: what is freed while it is in use stays, and all is released at its end") {
  const std::byte* kept = nullptr;
  {
    Tensor before = Tensor::empty({16411});
    kept = before.raw();
    MemoryPool pool(kCpu);
    {
      const MemoryPool::Use use(pool);
      before = Tensor();
      CHECK_THROWS_AS(MemoryPool::Use{pool}, Error);
    }
    CHECK(Tensor::empty({16411}).raw() != kept);
  }
  std::set<const std::byte*> found;
  std::vector<Tensor> all;
  for (int i = 0; i < 3; ++i) found.insert(all.emplace_back(Tensor::empty({16411})).raw());
  CHECK(found.contains(kept));
}

TEST_CASE("memory pool: its own blocks go first, so that uses in turn take no more") {
  MemoryPool pool(kCpu);
  std::set<const std::byte*> inside;
  for (int round = 0; round < 6; ++round) {
    (void)Tensor::empty({32771});  // leaves a block of the size with the others
    const MemoryPool::Use use(pool);
    inside.insert(Tensor::empty({32771}).raw());
  }
  CHECK(inside.size() == 1);
}

TEST_CASE("memory pool: a block stays with its pool while another is in use") {
  MemoryPool first(kCpu), second(kCpu);
  Tensor outlives;
  {
    const MemoryPool::Use use(first);
    outlives = Tensor::empty({65539});
  }
  const std::byte* block = outlives.raw();
  {
    const MemoryPool::Use use(second);
    outlives = Tensor();
    CHECK(Tensor::empty({65539}).raw() != block);
  }
  const MemoryPool::Use use(first);
  CHECK(Tensor::empty({65539}).raw() == block);
}

TEST_CASE("memory pool: releasing the cache leaves what a recording works in") {
  MemoryPool pool(kCpu);
  const std::byte* kept = nullptr;
  {
    const MemoryPool::Use use(pool);
    kept = Tensor::empty({131101}).raw();
    release_cached_memory(kCpu);
  }
  release_cached_memory(kCpu);
  const MemoryPool::Use use(pool);
  CHECK(Tensor::empty({131101}).raw() == kept);
}
#endif

TEST_CASE("recorded work: a CPU has none") {
  CHECK_FALSE(RecordedWork::supported(kCpu));
  CHECK_THROWS_WITH_AS(RecordedWork{kCpu}, doctest::Contains("expected a GPU"), Error);
}

TEST_CASE("step state: unless_bad reads the flag") {
  StepState state;
  int runs = 0;
  state.unless_bad([&] { ++runs; });
  state.mark_bad();
  state.unless_bad([&] { ++runs; });
  state.begin(1, 0.1);  // the flag is sticky
  state.unless_bad([&] { ++runs; });
  CHECK(runs == 1);
  state.clear_bad();
  state.unless_bad([&] { ++runs; });
  CHECK(runs == 2);
}

TEST_CASE("profile: ranges of steps") {
  CHECK(profile::parse_range("7").first == 7);
  CHECK(profile::parse_range("7").last == 7);
  CHECK(profile::parse_range("3:5").last == 5);
  for (const char* wrong : {"", "0", "-1", "5:3", "3:", ":3", "1:2:3", "x", "1e3"})
    CHECK_THROWS_WITH_AS(profile::parse_range(wrong), doctest::Contains("expected"), Error);
  const profile::Steps steps({3, 5});
  CHECK_FALSE(steps.covers(2));
  CHECK(steps.covers(3));
  CHECK(steps.covers(5));
  CHECK_FALSE(steps.covers(6));
  CHECK_FALSE(profile::Steps({}).covers(0));
  for (std::int64_t i = 1; i < 7; ++i) {
    const profile::Step step(steps, i, kCpu);
    CHECK(profile::enabled() == steps.covers(i));
  }
  CHECK_FALSE(profile::enabled());
}
