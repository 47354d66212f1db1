// nibble inspect FILE: contents, and intact or not.
#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <memory>
#include <optional>

#include "apps/cli/inspect.h"
#include "apps/config/json.h"
#include "nn/checkpoint_file.h"

namespace nibble::cli {
namespace {

struct Verdict {
  std::string fault;                      // empty: intact
  std::unique_ptr<SafetensorsFile> file;  // when its header holds, for the statistics
  bool checkpoint = false;                // with a checksum over everything
};

// The readers that training trusts decide, so inspect cannot call intact what they refuse.
Verdict verdict_of(const std::filesystem::path& path, const FileScan& scan) {
  Verdict v;
  v.checkpoint = scan.metadata.contains("nibble");
  try {
    v.file = std::make_unique<SafetensorsFile>(path);
    if (v.checkpoint) static_cast<void>(Checkpoint::open(path));
  } catch (const Error& e) {
    v.fault = e.what();
  }
  return v;
}

// The run's state, when its text is JSON.
Json state_of(const FileScan& scan) {
  const auto text = scan.metadata.find("state");
  if (text == scan.metadata.end()) return Json::object();
  Json state = Json::parse(text->second, nullptr, false);
  return state.is_object() ? state : Json::object();
}

std::string word(const Json& value) {
  return value.is_string() ? value.get<std::string>() : value.dump();
}

void print_state(const FileScan& scan, const Json& state) {
  if (const auto envelope = scan.metadata.find("nibble"); envelope != scan.metadata.end()) {
    const Json e = Json::parse(envelope->second, nullptr, false);
    if (e.is_object() && e.contains("version")) fmt::print("format     {}\n", word(e["version"]));
  }
  for (const char* key : {"step", "processor", "optimizer", "vocab", "data_hash"})
    if (state.contains(key)) fmt::print("{:<10} {}\n", key, word(state[key]));
  if (!state.contains("config") || !state["config"].is_object()) return;
  for (const auto& [part, values] : state["config"].items()) {
    if (!values.is_object()) {
      fmt::print("{:<10} {}\n", part, word(values));
      continue;
    }
    std::string line = fmt::format("{:<10}", part);
    std::size_t width = line.size();
    for (const auto& [key, value] : values.items()) {
      if (value.is_null()) continue;
      const std::string text = fmt::format(" {}={}", key, word(value));
      if (width + text.size() > 78) {
        line += "\n" + std::string(10, ' ');
        width = 10;
      }
      line += text;
      width += text.size();
    }
    fmt::print("{}\n", line);
  }
}

std::optional<TensorStats> stats_of(const Verdict& v, const std::string& name) {
  const SafetensorsFile::Entry* e = v.file ? v.file->find(name) : nullptr;
  if (!e) return std::nullopt;
  return tensor_stats(e->dtype, v.file->bytes(*e));
}

std::string bytes_text(const FileScan::Entry& e) {
  return e.begin <= e.end ? size_text(e.end - e.begin) : "?";
}

void print_tensors(const FileScan& scan, const Verdict& v, bool stats) {
  std::size_t name_width = 6, shape_width = 5;
  for (const auto& e : scan.entries) {
    name_width = std::max(name_width, e.name.size());
    shape_width = std::max(shape_width, fmt::format("{}", e.shape).size());
  }
  fmt::print("\n{:<{}}  {:<7}  {:<{}}  {:>10}\n", "tensor", name_width, "dtype", "shape",
             shape_width, "bytes");
  for (const auto& e : scan.entries) {
    fmt::print("{:<{}}  {:<7}  {:<{}}  {:>10}{}\n", e.name, name_width, e.dtype,
               fmt::format("{}", e.shape), shape_width, bytes_text(e),
               e.fault.empty() ? "" : "  DAMAGED: " + e.fault);
    if (!stats) continue;
    if (const auto s = stats_of(v, e.name))
      fmt::print(
          "  [{}]  {:.4g} … {:.4g}  mean {:.3g}  rms {:.3g}  absmax {:.4g}  zeros {}  "
          "not finite {}\n",
          sparkline(*s), s->min, s->max, s->mean, s->rms, s->absmax, s->zeros, s->not_finite);
  }
  std::uint64_t total = 0;
  for (const auto& e : scan.entries) total += e.begin <= e.end ? e.end - e.begin : 0;
  fmt::print("{} tensors, {}\n", scan.entries.size(), size_text(total));
}

Json json_of(const std::filesystem::path& path, const FileScan& scan, const Verdict& v,
             const Json& state, bool stats) {
  Json tensors = Json::array();
  for (const auto& e : scan.entries) {
    Json t = {{"name", e.name},
              {"dtype", e.dtype},
              {"shape", std::vector<std::int64_t>(e.shape.begin(), e.shape.end())},
              {"begin", e.begin},
              {"end", e.end},
              {"fault", e.fault.empty() ? Json() : Json(e.fault)}};
    if (const auto s = stats ? stats_of(v, e.name) : std::nullopt)
      t["stats"] = {{"count", s->count},
                    {"min", s->min},
                    {"max", s->max},
                    {"mean", s->mean},
                    {"rms", s->rms},
                    {"absmax", s->absmax},
                    {"zeros", s->zeros},
                    {"not_finite", s->not_finite},
                    {"histogram", std::vector<std::int64_t>(s->bins, s->bins + s->kBins)}};
    tensors.push_back(std::move(t));
  }
  return {{"file", path.string()},
          {"bytes", scan.size},
          {"intact", v.fault.empty()},
          {"checksummed", v.checkpoint},
          {"fault", v.fault.empty() ? Json() : Json(v.fault)},
          {"state", state},
          {"tensors", tensors}};
}

}  // namespace

int inspect_file(const std::filesystem::path& path, bool stats, bool json) {
  const FileScan scan = scan_file(path);
  const Verdict v = verdict_of(path, scan);
  const Json state = state_of(scan);
  if (json) {
    // A header may hold bytes that are no UTF-8.
    fmt::print(
        "{}\n",
        json_of(path, scan, v, state, stats).dump(2, ' ', false, Json::error_handler_t::replace));
  } else {
    fmt::print("file       {}, {}\n", path.string(), size_text(scan.size));
    fmt::print("state      {}\n", !v.fault.empty() ? "DAMAGED"
                                  : v.checkpoint   ? "intact: the checksum of all its content holds"
                                                   : "sound header; the format has no checksum");
    print_state(scan, state);
    if (!scan.entries.empty()) print_tensors(scan, v, stats);
  }
  NIBBLE_CHECK(v.fault.empty(), "inspect", "{}", v.fault);
  return 0;
}

}  // namespace nibble::cli
