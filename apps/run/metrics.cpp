#include "apps/run/metrics.h"

#include <functional>
#include <string_view>

#include "tensor/atomic_file.h"
#include "tensor/check.h"
#include "tensor/json_text.h"

namespace nibble::run {
namespace {

bool is_row(const Json& row) {
  return row.is_object() && row.contains("step") && row["step"].is_number_integer();
}

// Hands over each whole line, newline included; the bytes of a torn last one are returned.
std::size_t for_each_line(const std::filesystem::path& path, std::string_view bytes,
                          const std::function<void(std::string_view, Json)>& visit) {
  std::size_t number = 1;
  for (std::size_t end; (end = bytes.find('\n')) != std::string_view::npos; ++number) {
    const std::string_view line = bytes.substr(0, end + 1);
    Json row = parse_json<Json>(line);
    NIBBLE_CHECK(is_row(row), "metrics", "{}:{}: expected an object with an integer \"step\"",
                 path.string(), number);
    visit(line, std::move(row));
    bytes.remove_prefix(end + 1);
  }
  return bytes.size();
}

}  // namespace

void MetricsWriter::write(const Json& row) {
  NIBBLE_CHECK(is_row(row), "metrics", "a row needs an integer \"step\"");
  file_.append(row.dump(-1, ' ', /*ensure_ascii=*/false, Json::error_handler_t::replace) + "\n");
}

std::vector<Json> read_metrics(const std::filesystem::path& path) {
  std::vector<Json> rows;
  const std::string bytes = read_whole_file(path, "metrics");
  for_each_line(path, bytes, [&](std::string_view, Json row) { rows.push_back(std::move(row)); });
  return rows;
}

Truncation truncate_metrics_after(const std::filesystem::path& path, std::int64_t step) {
  Truncation result;
  std::string kept;
  const std::string bytes = read_whole_file(path, "metrics");
  result.torn_bytes = for_each_line(path, bytes, [&](std::string_view line, const Json& row) {
    if (row["step"].get<std::int64_t>() > step) {
      ++result.removed;
    } else {
      ++result.kept;
      kept += line;
    }
  });
  if (kept.size() != bytes.size()) write_file_atomically(path, kept, "metrics");
  return result;
}

}  // namespace nibble::run
