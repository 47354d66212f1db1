#include "tensor/block_space.h"

#include <algorithm>

namespace nibble {
namespace {

class ImaginarySource : public BlockSource {
 public:
  std::byte* end() const override { return end_; }
  std::int64_t grow(std::int64_t bytes) override {
    const std::int64_t grown = (bytes + kArenaPiece - 1) / kArenaPiece * kArenaPiece;
    end_ += grown;
    return grown;
  }
  std::pair<std::byte*, std::int64_t> release(std::byte* from, std::int64_t bytes) override {
    const std::int64_t offset = from - begin(), first = (offset + kArenaPiece - 1) / kArenaPiece,
                       last = (offset + bytes) / kArenaPiece;
    if (last <= first) return {from, 0};
    std::byte* const gone = begin() + first * kArenaPiece;
    const std::int64_t size = (last - first) * kArenaPiece;
    holes_.add(gone, size);
    if (const std::int64_t at_end = holes_.bytes_below(end_); at_end > 0) {
      AddressRanges rest;
      rest.add(begin(), end_ - at_end - begin());
      holes_.split_off(rest);
      end_ -= at_end;
    }
    return {gone, size};
  }

 private:
  static std::byte* begin() { return reinterpret_cast<std::byte*>(std::uintptr_t{1} << 60); }
  std::byte* end_ = begin();
  AddressRanges holes_;  // given back
};

}  // namespace

std::unique_ptr<BlockSource> make_imaginary_source() { return std::make_unique<ImaginarySource>(); }

AddressRanges::Place AddressRanges::insert(std::byte* at, std::int64_t bytes) {
  by_size_.emplace(bytes, at);
  return by_address_.emplace(at, bytes).first;
}

AddressRanges::Place AddressRanges::erase(Place at) {
  by_size_.erase({at->second, at->first});
  return by_address_.erase(at);
}

void AddressRanges::add(std::byte* at, std::int64_t bytes) {
  if (bytes == 0) return;
  std::byte* end = at + bytes;
  auto next = by_address_.upper_bound(at);
  if (next != by_address_.begin()) {
    const auto before = std::prev(next);
    if (before->first + before->second >= at) next = before;
  }
  while (next != by_address_.end() && next->first <= end) {
    at = std::min(at, next->first);
    end = std::max(end, next->first + next->second);
    next = erase(next);
  }
  insert(at, end - at);
}

void AddressRanges::add(const AddressRanges& other) {
  for (const auto& [at, bytes] : other.by_address_) add(at, bytes);
}

std::byte* AddressRanges::take(std::int64_t bytes) {
  const auto found = by_size_.lower_bound({bytes, nullptr});
  if (found == by_size_.end()) return nullptr;
  const auto [size, at] = *found;
  erase(by_address_.find(at));
  if (size > bytes) insert(at + bytes, size - bytes);
  return at;
}

AddressRanges AddressRanges::split_off(const AddressRanges& kept) {
  AddressRanges rest, stay;
  for (const auto& [at, bytes] : by_address_) {
    std::byte* const end = at + bytes;
    std::byte* from = at;  // what comes before is dealt with
    auto k = kept.by_address_.upper_bound(at);
    if (k != kept.by_address_.begin()) --k;
    for (; k != kept.by_address_.end() && k->first < end; ++k) {
      std::byte* const first = std::max(from, k->first);
      std::byte* const last = std::min(end, k->first + k->second);
      if (last <= first) continue;
      rest.add(from, first - from);
      stay.add(first, last - first);
      from = last;
    }
    rest.add(from, end - from);
  }
  *this = std::move(stay);
  return rest;
}

std::int64_t AddressRanges::bytes_below(const std::byte* end) const {
  if (by_address_.empty()) return 0;
  const auto& [at, bytes] = *by_address_.rbegin();
  return at + bytes == end ? bytes : 0;
}

std::int64_t AddressRanges::bytes() const {
  std::int64_t total = 0;
  for (const auto& [at, bytes] : by_address_) total += bytes;
  return total;
}

std::byte* BlockSpace::take(std::int64_t bytes, int pool) {
  Pool* const own = pool ? &pools_.at(pool) : nullptr;
  AddressRanges& from = own ? own->free : free_;
  std::byte* block = from.take(bytes);
  if (!block && own) {
    from.add(free_);
    free_ = AddressRanges();
    block = from.take(bytes);
  }
  if (!block) {
    std::byte* const end = source_->end();
    const std::int64_t grown = source_->grow(bytes - from.bytes_below(end));
    if (grown == 0) return nullptr;
    held_ += grown;
    from.add(end, grown);
    block = from.take(bytes);
  }
  if (own) own->used.add(block, bytes);
  return block;
}

void BlockSpace::give(std::byte* at, std::int64_t bytes, int pool, bool in_use) {
  const auto own = pools_.find(pool);
  if (own == pools_.end()) return free_.add(at, bytes);
  own->second.free.add(at, bytes);
  if (in_use) own->second.used.add(at, bytes);
}

void BlockSpace::close_pool(int pool) {
  const auto own = pools_.find(pool);
  free_.add(own->second.free);
  pools_.erase(own);
}

void BlockSpace::end_use(int pool) {
  Pool& own = pools_.at(pool);
  free_.add(own.free.split_off(own.used));
}

void BlockSpace::release() {
  AddressRanges spare = std::exchange(free_, {});
  for (auto& [id, pool] : pools_) spare.add(pool.free.split_off(pool.used));
  for (const auto& [at, bytes] : spare.ranges()) {
    const auto [gone, size] = source_->release(at, bytes);
    held_ -= size;
    free_.add(at, size > 0 ? gone - at : bytes);
    if (size > 0) free_.add(gone + size, at + bytes - (gone + size));
  }
}

}  // namespace nibble
