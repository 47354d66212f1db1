#include "apps/run/progress.h"

#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <utility>

namespace nibble::run {
namespace {

constexpr const char* kClearLine = "\r\033[K";

double steady_seconds() {
  const auto now = std::chrono::steady_clock::now().time_since_epoch();
  return std::chrono::duration<double>(now).count();
}

std::string format_rate(double rate) {
  if (rate >= 1e6) return fmt::format("{:.2f}M", rate / 1e6);
  if (rate >= 1e3) return fmt::format("{:.1f}k", rate / 1e3);
  return fmt::format("{:.0f}", rate);
}

}  // namespace

std::string format_duration(double seconds) {
  constexpr double kCentury = 100 * 365.0 * 86400;
  if (!(seconds >= 0 && seconds < kCentury)) return "?";
  const auto s = static_cast<std::int64_t>(seconds);
  if (s < 60) return fmt::format("{}s", s);
  if (s < 3600) return fmt::format("{}m{:02}s", s / 60, s % 60);
  if (s < 86400) return fmt::format("{}h{:02}m", s / 3600, s / 60 % 60);
  return fmt::format("{}d{:02}h", s / 86400, s / 3600 % 24);
}

std::string format_bytes(std::uint64_t bytes) {
  constexpr double kMiB = 1024.0 * 1024.0;
  const double mib = static_cast<double>(bytes) / kMiB;
  return mib < 1024 ? fmt::format("{:.0f} MiB", mib) : fmt::format("{:.1f} GiB", mib / 1024);
}

std::string format_progress(const Progress& p, std::optional<double> seconds_left) {
  return fmt::format(
      "step {}/{}  loss {:.4f}  lr {:.2e}  grad {:.3f}  {} tok/s  eta {}  mem {}", p.step, p.steps,
      p.loss, p.learning_rate, p.gradient_norm, format_rate(p.tokens_per_second),
      seconds_left ? format_duration(*seconds_left) : "?", format_bytes(p.memory_bytes));
}

ProgressOptions ProgressOptions::for_stream(std::FILE* stream) {
  ProgressOptions options;
  const int fd = ::fileno(stream);
  options.terminal = ::isatty(fd) == 1;
  winsize size{};
  if (options.terminal && ::ioctl(fd, TIOCGWINSZ, &size) == 0) options.columns = size.ws_col;
  return options;
}

ProgressLine::ProgressLine(std::FILE* stream, ProgressOptions options)
    : stream_(stream), options_(std::move(options)) {
  if (!options_.seconds) options_.seconds = &steady_seconds;
  if (options_.terminal) options_.every_seconds = std::min(options_.every_seconds, 0.1);
}

ProgressLine::~ProgressLine() {
  if (open_line_) std::fputc('\n', stream_);
}

void ProgressLine::update(const Progress& progress) {
  const double now = options_.seconds();
  const bool first = first_step_ < 0;
  if (first) {
    first_step_ = progress.step;
    first_time_ = now;
  }
  const bool due = first || progress.step >= progress.steps ||
                   now - shown_time_ >= options_.every_seconds ||
                   (options_.every_steps > 0 && progress.step % options_.every_steps == 0);
  if (!due) return;
  shown_time_ = now;
  std::optional<double> left;
  if (progress.step > first_step_) {
    const double pace = (now - first_time_) / static_cast<double>(progress.step - first_step_);
    left = pace * static_cast<double>(progress.steps - progress.step);
  }
  show(format_progress(progress, left));
}

void ProgressLine::show(const std::string& line) {
  if (options_.terminal) {
    // A line that wraps could not be rewritten; the last column makes some terminals wrap.
    const auto room = static_cast<std::size_t>(options_.columns > 1 ? options_.columns - 1 : 0);
    fmt::print(stream_, "{}{}", kClearLine, room > 0 ? line.substr(0, room) : line);
    open_line_ = true;
  } else {
    fmt::print(stream_, "{}\n", line);
  }
  std::fflush(stream_);
}

void ProgressLine::message(const std::string& text) {
  fmt::print(stream_, "{}{}\n", open_line_ ? kClearLine : "", text);
  open_line_ = false;
  std::fflush(stream_);
}

}  // namespace nibble::run
