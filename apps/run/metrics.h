// metrics.jsonl: one JSON object a line, for people and scripts.
#pragma once

#include <cstdint>
#include <filesystem>
#include <vector>

#include "apps/config/json.h"
#include "apps/run/append_file.h"

namespace nibble::run {

class MetricsWriter {
 public:
  // Appends to `path`. A resumed run calls truncate_metrics_after first.
  explicit MetricsWriter(const std::filesystem::path& path) : file_(path, "metrics") {}

  // Writes `row`, an object with an integer "step". A number that is not finite becomes null, which
  // is how JSON (and pandas) spells it.
  void write(const Json& row);

 private:
  AppendFile file_;
};

// Every whole row. A last line without its newline is torn and left out.
// Throws "metrics: file:line: …" for a line that is no object with an integer "step".
std::vector<Json> read_metrics(const std::filesystem::path& path);

// Keeps the rows with step <= `step`, and repairs a torn last line; the file is replaced
// atomically, and only when something changes. A missing file stays missing.
Truncation truncate_metrics_after(const std::filesystem::path& path, std::int64_t step);

}  // namespace nibble::run
