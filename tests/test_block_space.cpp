// Blocks cut from a growing range of addresses. Tier: exact; no address is ever read.
#include <doctest/doctest.h>

#include <algorithm>
#include <random>
#include <utility>
#include <vector>

#include "tensor/block_space.h"

using namespace nibble;

namespace {

std::byte* address(std::int64_t at) { return reinterpret_cast<std::byte*>((1ll << 32) + at); }

// Grows by pieces of 100 up to `most`, gives whole pieces back, and knows which are there.
struct Pieces : BlockSource {
  static constexpr std::int64_t kPiece = 100;
  std::vector<bool> there;
  std::int64_t most = 1000;
  std::int64_t held() const { return std::count(there.begin(), there.end(), true) * kPiece; }
  std::byte* end() const override { return address(std::ssize(there) * kPiece); }
  std::int64_t grow(std::int64_t bytes) override {
    const std::int64_t count = (bytes + kPiece - 1) / kPiece;
    if (held() + count * kPiece > most) return 0;
    there.insert(there.end(), static_cast<std::size_t>(count), true);
    return count * kPiece;
  }
  std::pair<std::byte*, std::int64_t> release(std::byte* from, std::int64_t bytes) override {
    const std::int64_t offset = from - address(0);
    const std::int64_t first = (offset + kPiece - 1) / kPiece, last = (offset + bytes) / kPiece;
    if (last <= first) return {from, 0};
    for (std::int64_t i = first; i < last; ++i) {
      CHECK(there[static_cast<std::size_t>(i)]);
      there[static_cast<std::size_t>(i)] = false;
    }
    while (!there.empty() && !there.back()) there.pop_back();
    return {address(first * kPiece), (last - first) * kPiece};
  }
};

struct Space {
  Pieces* source = new Pieces;
  BlockSpace blocks{std::unique_ptr<BlockSource>(source)};
};

}  // namespace

TEST_CASE("block space: what is free merges and serves the next, whatever its size") {
  Space s;
  std::byte* a = s.blocks.take(60, 0);
  std::byte* b = s.blocks.take(130, 0);  // the rest of the first piece and two more
  CHECK(a == address(0));
  CHECK(b == address(60));
  CHECK(s.source->held() == 200);
  s.blocks.give(a, 60, 0, false);
  CHECK(s.blocks.take(10, 0) == address(190));  // the smallest range that holds it
  s.blocks.give(b, 130, 0, false);
  CHECK(s.blocks.take(190, 0) == address(0));
  CHECK(s.source->held() == 200);
  CHECK(s.blocks.take(801, 0) == nullptr);
  CHECK(s.blocks.take(800, 0) == address(200));
}

TEST_CASE("block space: whole pieces that nobody holds go back, and come again") {
  Space s;
  std::byte* a = s.blocks.take(250, 0);
  std::byte* b = s.blocks.take(250, 0);
  std::byte* c = s.blocks.take(250, 0);
  s.blocks.give(a, 250, 0, false);
  s.blocks.give(c, 250, 0, false);
  s.blocks.release();
  CHECK(s.source->held() == 300);  // b's pieces, 200 to 500
  CHECK(s.blocks.take(50, 0) == address(200));
  CHECK(s.blocks.take(701, 0) == nullptr);
  CHECK(s.blocks.take(700, 0) == address(500));
  s.blocks.give(b, 250, 0, false);
}

TEST_CASE("block space: a pool keeps what its work used, and no more") {
  Space s;
  s.blocks.give(s.blocks.take(300, 0), 300, 0, false);
  s.blocks.open_pool(1);
  std::byte* before = s.blocks.take(50, 0);
  std::byte* a = s.blocks.take(100, 1);
  CHECK(a == address(50));
  s.blocks.give(a, 100, 1, true);
  CHECK(s.blocks.take(40, 1) == address(50));  // its own first
  s.blocks.give(address(50), 40, 1, true);
  s.blocks.give(before, 50, 1, true);  // everybody's, but freed by its work
  s.blocks.end_use(1);
  CHECK(s.blocks.take(150, 0) == address(150));
  s.blocks.release();
  CHECK(s.source->held() == 300);
  CHECK(s.blocks.take(150, 1) == address(0));
  s.blocks.give(address(0), 150, 1, false);
  s.blocks.close_pool(1);
  CHECK(s.blocks.take(150, 0) == address(0));
}

TEST_CASE("block space: a pool and everybody merge where a block needs both") {
  Space s;
  s.blocks.give(s.blocks.take(400, 0), 400, 0, false);
  s.blocks.open_pool(1);
  s.blocks.give(s.blocks.take(100, 1), 100, 1, true);
  CHECK(s.blocks.take(350, 1) == address(0));
  CHECK(s.source->held() == 400);
}

TEST_CASE("block space: blocks never overlap, and all of them come back") {
  Space s;
  s.source->most = 1 << 20;
  s.blocks.open_pool(1);
  std::mt19937 random(7);
  struct Block {
    std::byte* at;
    std::int64_t bytes;
    int pool;
  };
  std::vector<Block> held;
  for (int i = 0; i < 4000; ++i) {
    if (held.size() < 40 || random() % 2) {
      const auto bytes = static_cast<std::int64_t>(1 + random() % 300);
      const int pool = static_cast<int>(random() % 2);
      std::byte* at = s.blocks.take(bytes, pool);
      REQUIRE(at);
      for (const Block& b : held) CHECK((at + bytes <= b.at || b.at + b.bytes <= at));
      held.push_back({at, bytes, pool});
    } else {
      const auto which = random() % held.size();
      s.blocks.give(held[which].at, held[which].bytes, held[which].pool, held[which].pool == 1);
      held[which] = held.back();
      held.pop_back();
    }
    if (i % 100 == 99) s.blocks.end_use(1);
    if (i % 500 == 499) s.blocks.release();
  }
  for (const Block& b : held) s.blocks.give(b.at, b.bytes, b.pool, false);
  s.blocks.close_pool(1);
  s.blocks.release();
  CHECK(s.source->held() == 0);
}
