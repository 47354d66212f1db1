// nibble inspect FILE: contents, and intact or not.
#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <memory>
#include <optional>

#include "apps/cli/inspect.h"
#include "apps/cli/inspect_encoded.h"
#include "apps/cli/text_layout.h"
#include "apps/config/json.h"
#include "nn/checkpoint_file.h"
#include "tensor/json_text.h"
#include "tensor/out_of_memory.h"

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
  Json state = parse_json<Json>(text->second);
  return state.is_object() ? state : Json::object();
}

std::string word(const Json& value) {
  return value.is_string() ? value.get<std::string>() : value.dump();
}

void print_state(const FileScan& scan, const Json& state) {
  if (const auto envelope = scan.metadata.find("nibble"); envelope != scan.metadata.end()) {
    const Json e = parse_json<Json>(envelope->second);
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
    std::string text;
    for (const auto& [key, value] : values.items())
      if (!value.is_null()) text += fmt::format(" {}={}", key, word(value));
    fmt::print("{}", wrap(fmt::format("{:<11}", part), 11, text));
  }
}

// Of the values that a tensor stands for: of what its codes decode to, where it holds codes.
struct Statistics {
  TensorStats stats;
  std::string decoded;  // the form of the codes; empty: the tensor's own values
};
std::optional<Statistics> stats_of(const Verdict& v, const EncodedTensors& encoded,
                                   const std::string& name) {
  const SafetensorsFile::Entry* e = v.file ? v.file->find(name) : nullptr;
  if (!e) return std::nullopt;
  if (const auto values = encoded.decode(name))
    return Statistics{tensor_stats(DType::F32, {values->values.raw(),
                                                static_cast<std::size_t>(values->values.bytes())}),
                      values->form};
  return Statistics{tensor_stats(e->dtype, v.file->bytes(*e)), ""};
}

std::string bytes_text(const FileScan::Entry& e) {
  return e.begin <= e.end ? size_text(e.end - e.begin) : "?";
}

void print_stats(const Statistics& found) {
  const TensorStats& s = found.stats;
  fmt::print("  [{}]  {:.4g} … {:.4g}  mean {:.3g}  rms {:.3g}\n", sparkline(s), s.min, s.max,
             s.mean, s.rms);
  const std::string form = found.decoded.empty() ? "" : "decoded from " + found.decoded + ": ";
  fmt::print("{}", wrap("   ", 4,
                        fmt::format("{}absmax {:.4g}, zeros {}, not finite {}", form, s.absmax,
                                    s.zeros, s.not_finite)));
}

void print_tensors(const FileScan& scan, const Verdict& v, const EncodedTensors& encoded,
                   bool stats) {
  Table table({"tensor", "dtype", "shape", "bytes"}, 3);
  std::uint64_t total = 0;
  for (const auto& e : scan.entries) {
    table.row({e.name, e.dtype, fmt::format("{}", e.shape), bytes_text(e)});
    total += e.begin <= e.end ? e.end - e.begin : 0;
  }
  const std::vector<std::string> lines = table.lines();
  fmt::print("\n{}\n", lines[0]);
  for (std::size_t i = 0; i < scan.entries.size(); ++i) {
    const auto& e = scan.entries[i];
    fmt::print("{}\n", lines[i + 1]);
    if (!e.fault.empty()) fmt::print("{}", wrap("  DAMAGED:", 4, e.fault));
    if (!stats) continue;
    if (const auto s = stats_of(v, encoded, e.name)) print_stats(*s);
  }
  fmt::print("{} tensors, {}\n", scan.entries.size(), size_text(static_cast<std::int64_t>(total)));
}

Json json_of(const std::filesystem::path& path, const FileScan& scan, const Verdict& v,
             const EncodedTensors& encoded, const Json& state, bool stats) {
  Json tensors = Json::array();
  for (const auto& e : scan.entries) {
    Json t = {{"name", e.name},
              {"dtype", e.dtype},
              {"shape", std::vector<std::int64_t>(e.shape.begin(), e.shape.end())},
              {"begin", e.begin},
              {"end", e.end},
              {"fault", e.fault.empty() ? Json() : Json(e.fault)}};
    if (const auto found = stats ? stats_of(v, encoded, e.name) : std::nullopt) {
      const TensorStats& s = found->stats;
      t["stats"] = {{"count", s.count},
                    {"min", s.min},
                    {"max", s.max},
                    {"mean", s.mean},
                    {"rms", s.rms},
                    {"absmax", s.absmax},
                    {"zeros", s.zeros},
                    {"not_finite", s.not_finite},
                    {"histogram", std::vector<std::int64_t>(s.bins, s.bins + s.kBins)}};
      if (!found->decoded.empty()) t["decoded_from"] = found->decoded;
    }
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
  // What a damaged state would build is anybody's guess.
  const EncodedTensors encoded = stats && v.checkpoint && v.fault.empty()
                                     ? EncodedTensors::of(*v.file, state)
                                     : EncodedTensors();
  if (json) {
    // A header may hold bytes that are no UTF-8.
    fmt::print("{}\n", json_of(path, scan, v, encoded, state, stats)
                           .dump(2, ' ', false, Json::error_handler_t::replace));
  } else {
    fmt::print("{}", wrap("file      ", 11,
                          fmt::format("{}, {}", path.string(),
                                      size_text(static_cast<std::int64_t>(scan.size)))));
    fmt::print("state      {}\n", !v.fault.empty() ? "DAMAGED"
                                  : v.checkpoint   ? "intact: the checksum of all its content holds"
                                                   : "sound header; the format has no checksum");
    print_state(scan, state);
    if (!scan.entries.empty()) print_tensors(scan, v, encoded, stats);
  }
  NIBBLE_CHECK(v.fault.empty(), "inspect", "{}", v.fault);
  return 0;
}

}  // namespace nibble::cli
