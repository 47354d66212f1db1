// Reading what can be read of a damaged file.
#include <algorithm>
#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>
#include <set>

#include "apps/cli/inspect.h"
#include "tensor/json_text.h"

namespace nibble::cli {
namespace {

constexpr std::uint64_t kMaxHeader = std::uint64_t{100} << 20;  // the format's own limit

// Bits an element of the format's dtypes; 0: not known.
std::uint64_t bytes_each(const std::string& dtype) {
  for (const auto& [name, bytes] : {std::pair{"F64", 8},
                                    {"I64", 8},
                                    {"U64", 8},
                                    {"F32", 4},
                                    {"I32", 4},
                                    {"U32", 4},
                                    {"F16", 2},
                                    {"BF16", 2},
                                    {"I16", 2},
                                    {"U16", 2},
                                    {"I8", 1},
                                    {"U8", 1},
                                    {"BOOL", 1},
                                    {"F8_E4M3", 1},
                                    {"F8_E5M2", 1}})
    if (dtype == name) return static_cast<std::uint64_t>(bytes);
  return 0;
}

// nlohmann would cut a fraction, and convert 1e300 to whatever the processor makes of it.
template <class T>
T integer(const nlohmann::json& value) {
  NIBBLE_CHECK(value.is_number_integer(), "inspect", "got {}, expected an integer",
               value.type_name());
  return value.get<T>();
}

FileScan::Entry read_entry(const std::string& name, const nlohmann::json& value,
                           std::uint64_t available) {
  FileScan::Entry e;
  e.name = name;
  try {
    e.dtype = value.at("dtype").get<std::string>();
    std::uint64_t count = 1;
    for (const nlohmann::json& extent : value.at("shape")) {
      const auto d = integer<std::int64_t>(extent);
      if (d < 0 || __builtin_mul_overflow(count, static_cast<std::uint64_t>(d), &count))
        e.fault = "an impossible shape";
      e.shape.push_back(d);
    }
    const nlohmann::json& offsets = value.at("data_offsets");
    e.begin = integer<std::uint64_t>(offsets.at(0));
    e.end = integer<std::uint64_t>(offsets.at(1));
    const std::uint64_t each = bytes_each(e.dtype);
    std::uint64_t expected = 0;
    if (!e.fault.empty()) return e;
    if (each == 0)
      e.fault = "a dtype that is not known";
    else if (e.begin > e.end)
      e.fault = "ends before it begins";
    else if (e.begin >= available && e.end > available)
      e.fault = "lies beyond the end of the file";
    else if (e.end > available)
      e.fault = fmt::format("cut: {} of {} bytes are there", available - e.begin, e.end - e.begin);
    else if (__builtin_mul_overflow(count, each, &expected) || expected != e.end - e.begin)
      e.fault = fmt::format("has {} bytes, its shape needs {}", e.end - e.begin, expected);
  } catch (const std::exception&) {  // a missing key, another type, more axes than a shape holds
    e.fault = "a malformed entry";
  }
  return e;
}

void mark_overlaps(std::vector<FileScan::Entry>& entries) {
  std::vector<FileScan::Entry*> order;
  for (auto& e : entries)
    if (e.fault.empty() && e.end > e.begin) order.push_back(&e);
  std::sort(order.begin(), order.end(), [](auto* a, auto* b) { return a->begin < b->begin; });
  const FileScan::Entry* last = nullptr;  // the one that reaches farthest
  for (FileScan::Entry* e : order) {
    if (last && e->begin < last->end) e->fault = fmt::format("overlaps '{}'", last->name);
    if (!last || e->end > last->end) last = e;
  }
}

}  // namespace

FileScan scan_file(const std::filesystem::path& path) {
  FileScan scan;
  scan.size = std::filesystem::file_size(path);
  std::ifstream file(path, std::ios::binary);
  std::uint64_t length = 0;
  if (!file.read(reinterpret_cast<char*>(&length), sizeof length)) {
    scan.header_fault = "shorter than the length of a header";
    return scan;
  }
  if (length > kMaxHeader || length > scan.size - sizeof length) {
    scan.header_fault =
        fmt::format("claims a header of {} bytes in a file of {}", length, scan.size);
    return scan;
  }
  std::string text(length, '\0');
  file.read(text.data(), static_cast<std::streamsize>(length));
  std::vector<std::string> names;
  const auto header = parse_json<nlohmann::json>(text, names);
  if (!file || !header.is_object()) {
    scan.header_fault = "the header is not a JSON object";
    return scan;
  }
  const std::uint64_t available = scan.size - sizeof length - length;
  std::set<std::string_view> seen;  // of two equal names the last value counts
  for (const std::string& name : names) {
    if (!seen.insert(name).second) continue;
    const nlohmann::json& value = header.at(name);
    if (name != "__metadata__") {
      scan.entries.push_back(read_entry(name, value, available));
    } else if (value.is_object()) {
      for (const auto& [key, word] : value.items())
        if (word.is_string()) scan.metadata[key] = word.get<std::string>();
    }
  }
  mark_overlaps(scan.entries);
  return scan;
}

}  // namespace nibble::cli
