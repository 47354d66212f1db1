// TensorBoard event files: scalars, histograms and text by step.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "apps/run/append_file.h"

namespace nibble::run {

// Counts of values by TensorBoard's buckets, whose limits grow by 1.1 from 1e-12 to 1e20 on both
// sides of zero. Values that are not finite are left out: TensorBoard can show none.
struct Histogram {
  double min = 0, max = 0, count = 0, sum = 0, sum_of_squares = 0;
  // bucket[i] counts the values in [limit[i-1], limit[i]); runs of empty buckets are merged.
  std::vector<double> limit, bucket;

  static Histogram of(std::span<const float> values);
};

class EventWriter {
 public:
  // Seconds since 1970.
  using Clock = std::function<double()>;

  // Appends to `folder`/events.out.tfevents.nibble, which TensorBoard finds below its log folder;
  // makes folder and file when missing. A resumed run calls truncate_events_after first.
  explicit EventWriter(const std::filesystem::path& folder, Clock clock = system_clock());

  // All scalars of one step make one event.
  void scalars(std::int64_t step, std::span<const std::pair<std::string, double>> values);
  void scalar(std::int64_t step, const std::string& tag, double value);
  void histogram(std::int64_t step, const std::string& tag, const Histogram& histogram);
  // Markdown.
  void text(std::int64_t step, const std::string& tag, const std::string& text);

  static std::filesystem::path file_in(const std::filesystem::path& folder);
  static Clock system_clock();

 private:
  void write(std::int64_t step, std::string_view summary);

  Clock clock_;
  AppendFile file_;
};

// One value of an event file; exactly one of the last three is set.
struct EventValue {
  std::int64_t step = 0;
  double wall_time = 0;
  std::string tag{};
  std::optional<float> scalar{};
  std::optional<Histogram> histogram{};
  std::optional<std::string> text{};
};

// Every value of EventWriter's file in `folder`. Throws when a record other than a torn last one is
// damaged.
std::vector<EventValue> read_events(const std::filesystem::path& folder);

// Keeps the events with step <= `step` and repairs a torn end; the file is replaced atomically, and
// only when something changes. A missing file stays missing.
Truncation truncate_events_after(const std::filesystem::path& folder, std::int64_t step);

}  // namespace nibble::run
