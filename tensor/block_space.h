// Blocks of any size cut from one range of addresses that grows at its end. What is free merges
// with its neighbours, so that many blocks of one size make room for a larger one.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <set>
#include <unordered_map>
#include <utility>

namespace nibble {

// A set of addresses as ranges that neither touch nor overlap.
class AddressRanges {
 public:
  void add(std::byte* at, std::int64_t bytes);
  void add(const AddressRanges& other);
  // Cuts a block from the smallest range that holds it, the lowest of equal ones; null: none does.
  std::byte* take(std::int64_t bytes);
  // Removes all that lies outside `kept` and returns it.
  AddressRanges split_off(const AddressRanges& kept);
  std::int64_t bytes_below(const std::byte* end) const;  // of the range that ends there, or 0
  std::int64_t bytes() const;
  const std::map<std::byte*, std::int64_t>& ranges() const { return by_address_; }

 private:
  using Place = std::map<std::byte*, std::int64_t>::iterator;
  Place insert(std::byte* at, std::int64_t bytes);
  Place erase(Place at);
  std::map<std::byte*, std::int64_t> by_address_;
  std::set<std::pair<std::int64_t, std::byte*>> by_size_;
};

// What a BlockSpace cuts its blocks from.
class BlockSource {
 public:
  virtual ~BlockSource() = default;
  virtual std::byte* end() const = 0;
  // Adds at least as many bytes at the end; returns how many, 0 when there is no memory left.
  virtual std::int64_t grow(std::int64_t bytes) = 0;
  // Gives back what can be given back of a range that is free, and returns that part.
  virtual std::pair<std::byte*, std::int64_t> release(std::byte* at, std::int64_t bytes) = 0;
};

// Memory of a GPU comes and goes in pieces of this size: small enough to waste little at the end,
// large enough that tens of GiB are some thousands.
inline constexpr std::int64_t kArenaPiece = 16 << 20;
// Addresses with nothing behind them, in such pieces: for Meta, where blocks are only placed.
std::unique_ptr<BlockSource> make_imaginary_source();

// Blocks for everybody (pool 0) and for pools (MemoryPool in storage.h). Callers lock.
class BlockSpace {
 public:
  explicit BlockSpace(std::unique_ptr<BlockSource> source) : source_(std::move(source)) {}

  // Null when there is no memory left. A pool takes of its own first, then what nobody holds.
  std::byte* take(std::int64_t bytes, int pool);
  // `in_use`: by work of the pool, which keeps the block.
  void give(std::byte* at, std::int64_t bytes, int pool, bool in_use);
  void open_pool(int pool) { pools_[pool]; }
  void close_pool(int pool);
  void end_use(int pool);  // what the pool has not needed goes back to everybody
  void release();          // what nobody needs goes back to the source
  std::int64_t held() const { return held_; }  // bytes taken from the source

 private:
  struct Pool {
    AddressRanges free;
    AddressRanges used;  // ever, by its work
  };
  std::unique_ptr<BlockSource> source_;
  AddressRanges free_;
  std::int64_t held_ = 0;
  std::unordered_map<int, Pool> pools_;
};

}  // namespace nibble
