// Batches of token windows, for training and for evaluation.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <exception>
#include <filesystem>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <thread>
#include <vector>

#include "data/token_stream.h"

namespace nibble {

// Target of a place that predicts nothing.
inline constexpr std::int32_t kNoTarget = -1;

enum class WindowOrder : std::uint8_t {
  // Endless epochs. Each shifts the windows by its own offset in [0, T) and visits every window
  // once
  // in its own random order.
  Shuffled,
  // Once through the split in order: every token but the first is a target exactly once. What is
  // missing in the last window and the last batch has input 0 and target kNoTarget.
  Sequential,
};

struct LoaderOptions {
  std::int64_t batch = 0;       // B, windows a batch on this rank
  std::int64_t length = 0;      // T, tokens a window
  std::int64_t vocab_size = 0;  // of the model; larger tokens are an error
  WindowOrder order = WindowOrder::Shuffled;
  std::uint64_t seed = 0;
  // The world takes batch * world windows a step of the one global order; rank r the r-th B of
  // them.
  std::int64_t rank = 0;
  std::int64_t world = 1;
};

struct Batch {
  std::span<const std::int32_t> inputs;   // [B, T]
  std::span<const std::int32_t> targets;  // [B, T], kNoTarget where there is none
  std::span<const std::int64_t> begins;   // [B] place of each row's first input in the split
  std::int64_t position = 0;              // of the step's first window in the global order
};

// A position is the number of windows that the whole world has taken: one integer from which the
// same batches follow, across shards and epochs, for every number of ranks that divides the same
// global batch. The content of window g of the order is a pure function of (seed, g).
class TokenLoader {
 public:
  // Throws Error("loader") for options that do not fit, Error("data") for shards that cannot be
  // read.
  TokenLoader(const std::vector<std::filesystem::path>& shards, LoaderOptions options);
  ~TokenLoader();
  TokenLoader(const TokenLoader&) = delete;
  TokenLoader& operator=(const TokenLoader&) = delete;

  // The next batch, valid until the following call of next() or seek(). It was prepared by another
  // thread, whose error is thrown here, again at each call until seek().
  const Batch& next();
  // Sequential order: the split has been read. Shuffled order: never.
  bool done() const { return options_.order == WindowOrder::Sequential && position_ >= windows_; }

  std::int64_t position() const { return position_; }
  void seek(std::int64_t position);

  // Windows an epoch, or of the whole split.
  std::int64_t windows() const { return windows_; }
  std::int64_t epoch() const { return position_ / windows_; }
  std::int64_t tokens() const { return stream_.size(); }

 private:
  struct Buffers;

  std::int64_t step() const { return options_.batch * options_.world; }
  // Place of window `index` of the global order in the split.
  std::int64_t window_begin(std::int64_t index) const;
  void fill(Buffers& buffers, std::int64_t position) const;
  void fill_row(Buffers& buffers, std::int64_t row, std::int64_t index) const;
  void start();
  void stop();
  void prefetch();

  LoaderOptions options_;
  TokenStream stream_;
  std::int64_t windows_ = 0;
  std::int64_t offsets_ = 1;   // shuffled order: number of possible offsets
  std::int64_t position_ = 0;  // of what next() returns next

  std::unique_ptr<Buffers> current_, ahead_;  // the caller's and the thread's
  std::mutex mutex_;
  std::condition_variable changed_;
  bool ready_ = false;  // ahead_ is filled, or error_ is set
  bool stopping_ = false;
  std::exception_ptr error_;
  std::thread thread_;
};

}  // namespace nibble
