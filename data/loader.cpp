#include "data/loader.h"

#include <algorithm>
#include <new>

#include "data/permutation.h"
#include "tensor/check.h"
#include "tensor/rng.h"

namespace nibble {
namespace {

constexpr const char* kOp = "loader";
// Separates the draws of the offsets from those of the order.
constexpr std::uint32_t kOffsetStream = 0xFFFFFFFF;

// Cache lines, and whole vectors.
struct AlignedDelete {
  void operator()(std::int32_t* data) const { ::operator delete (data, std::align_val_t{64}); }
};
using AlignedInts = std::unique_ptr<std::int32_t[], AlignedDelete>;
AlignedInts aligned_ints(std::int64_t count) {
  const std::size_t bytes = static_cast<std::size_t>(count) * sizeof(std::int32_t);
  return AlignedInts(static_cast<std::int32_t*>(::operator new (bytes, std::align_val_t{64})));
}

}  // namespace

struct TokenLoader::Buffers {
  Buffers(std::int64_t rows, std::int64_t length)
      : inputs(aligned_ints(rows * length)),
        targets(aligned_ints(rows * length)),
        begins(static_cast<std::size_t>(rows)),
        window(static_cast<std::size_t>(length) + 1) {
    const auto count = static_cast<std::size_t>(rows * length);
    batch = {{inputs.get(), count}, {targets.get(), count}, begins, 0};
  }
  AlignedInts inputs, targets;
  std::vector<std::int64_t> begins;
  std::vector<std::int32_t> window;  // T + 1 tokens
  Batch batch;
};

TokenLoader::TokenLoader(const std::vector<std::filesystem::path>& shards, LoaderOptions options)
    : options_(options), stream_(shards, options.vocab_size) {
  const auto [batch, length, vocab_size, order, seed, rank, world] = options_;
  NIBBLE_CHECK(batch > 0 && length > 0, kOp, "got batch {} and length {} expected both positive",
               batch, length);
  NIBBLE_CHECK(world > 0 && rank >= 0 && rank < world, kOp, "got rank {} of {}", rank, world);
  const std::int64_t tokens = stream_.size();
  if (order == WindowOrder::Sequential) {
    NIBBLE_CHECK(tokens >= 2, kOp, "got {} tokens expected at least 2, one to predict", tokens);
    windows_ = (tokens - 2) / length + 1;
  } else {
    NIBBLE_CHECK(tokens > length, kOp,
                 "got {} tokens expected at least {}, one window of length {} and its last target; "
                 "hint: more text or a shorter length",
                 tokens, length + 1, length);
    // As many windows as fit at every offset, so that all epochs are equally long.
    windows_ = std::max<std::int64_t>((tokens - length) / length, 1);
    offsets_ = std::min(length, tokens - windows_ * length);
  }
  current_ = std::make_unique<Buffers>(batch, length);
  ahead_ = std::make_unique<Buffers>(batch, length);
  start();
}

TokenLoader::~TokenLoader() { stop(); }

std::int64_t TokenLoader::window_begin(std::int64_t index) const {
  if (options_.order == WindowOrder::Sequential) return index * options_.length;
  const auto epoch = static_cast<std::uint64_t>(index / windows_);
  const Philox noise = philox4x32_10(0, kOffsetStream, static_cast<std::uint32_t>(epoch),
                                     static_cast<std::uint32_t>(epoch >> 32), options_.seed);
  const std::uint64_t draw = std::uint64_t{noise.v[1]} << 32 | noise.v[0];
  const auto offset = static_cast<std::int64_t>(draw % static_cast<std::uint64_t>(offsets_));
  return offset + Permutation(windows_, options_.seed, epoch)(index % windows_) * options_.length;
}

void TokenLoader::fill(Buffers& buffers, std::int64_t position) const {
  buffers.batch.position = position;
  for (std::int64_t row = 0; row < options_.batch; ++row) {
    fill_row(buffers, row, position + options_.rank * options_.batch + row);
  }
}

void TokenLoader::fill_row(Buffers& buffers, std::int64_t row, std::int64_t index) const {
  const std::int64_t length = options_.length;
  std::int32_t* const inputs = buffers.inputs.get() + row * length;
  std::int32_t* const targets = buffers.targets.get() + row * length;
  const std::int64_t begin = window_begin(index);
  // Inputs of this row: all of them, or what is left before the split's last token.
  const std::int64_t count = std::clamp<std::int64_t>(stream_.size() - 1 - begin, 0, length);
  buffers.begins[static_cast<std::size_t>(row)] = begin;
  if (count > 0) {
    const std::span window(buffers.window.data(), static_cast<std::size_t>(count) + 1);
    stream_.read(begin, window);
    std::copy(window.begin(), window.end() - 1, inputs);
    std::copy(window.begin() + 1, window.end(), targets);
  }
  std::fill(inputs + count, inputs + length, 0);
  std::fill(targets + count, targets + length, kNoTarget);
}

const Batch& TokenLoader::next() {
  NIBBLE_CHECK(!done(), kOp, "the split has been read to its end, at window {}", windows_);
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [this] { return ready_; });
  if (error_) std::rethrow_exception(error_);
  std::swap(current_, ahead_);
  position_ += step();
  ready_ = false;
  changed_.notify_all();
  return current_->batch;
}

void TokenLoader::seek(std::int64_t position) {
  NIBBLE_CHECK(position >= 0, kOp, "got position {} expected at least 0", position);
  stop();
  position_ = position;
  start();
}

void TokenLoader::start() {
  ready_ = stopping_ = false;
  error_ = nullptr;
  thread_ = std::thread([this] { prefetch(); });
}

void TokenLoader::stop() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_all();
  if (thread_.joinable()) thread_.join();
}

// One batch ahead of the caller, until stopped, at the end or at an error.
void TokenLoader::prefetch() {
  std::unique_lock lock(mutex_);
  while (!stopping_ && !done() && !error_) {
    lock.unlock();
    std::exception_ptr error;
    try {
      fill(*ahead_, position_);
    } catch (...) {
      error = std::current_exception();
    }
    lock.lock();
    error_ = error;
    ready_ = true;
    changed_.notify_all();
    changed_.wait(lock, [this] { return stopping_ || !ready_; });
  }
}

}  // namespace nibble
