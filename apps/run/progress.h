// The line that says how far training is.
#pragma once

#include <cstdint>
#include <cstdio>
#include <functional>
#include <optional>
#include <string>

namespace nibble::run {

struct Progress {
  std::int64_t step = 0, steps = 0;  // steps done, steps in all
  double loss = 0, learning_rate = 0, gradient_norm = 0, tokens_per_second = 0;
  std::uint64_t memory_bytes = 0;
};

// "12s", "3m05s", "2h07m", "3d04h"; "?" for what is negative, not finite or beyond a century.
std::string format_duration(double seconds);
// "512 MiB", "1.5 GiB"
std::string format_bytes(std::uint64_t bytes);
// "step 120/5000  loss 3.2145  lr 3.00e-04  grad 0.812  12.3k tok/s  eta 12m03s  mem 512 MiB"
std::string format_progress(const Progress& progress, std::optional<double> seconds_left);

struct ProgressOptions {
  bool terminal = false;            // rewrite one line; else print a line now and then
  int columns = 0;                  // of the terminal; longer lines are cut; 0: unknown
  double every_seconds = 10;        // between lines; on a terminal at most 0.1
  std::int64_t every_steps = 0;     // and at these steps in any case; 0: by time alone
  std::function<double()> seconds;  // a monotonic clock; empty: the system's

  // For a stream: whether it is a terminal, and how wide.
  static ProgressOptions for_stream(std::FILE* stream);
};

class ProgressLine {
 public:
  ProgressLine(std::FILE* stream, ProgressOptions options);
  // Ends a line that was being rewritten.
  ~ProgressLine();
  ProgressLine(const ProgressLine&) = delete;
  ProgressLine& operator=(const ProgressLine&) = delete;

  // Called at each step; shows the first, the last, and those that are due. The time left follows
  // from the pace since the first call.
  void update(const Progress& progress);
  // A line of its own, above the one being rewritten.
  void message(const std::string& text);

 private:
  void show(const std::string& line);

  std::FILE* stream_;
  ProgressOptions options_;
  std::int64_t first_step_ = -1;
  double first_time_ = 0;
  double shown_time_ = 0;
  bool open_line_ = false;
};

}  // namespace nibble::run
