#include "apps/config/jsonnet.h"

// The header of libjsonnet 0.18 declares C functions without saying so to C++.
extern "C" {
#include <libjsonnet.h>
}

#include <algorithm>
#include <cstring>
#include <fstream>
#include <iterator>
#include <optional>

#include "apps/config/overrides.h"
#include "apps/config/rules.h"
#include "tensor/check.h"

namespace nibble::config {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t kMaxBytes = std::size_t{1} << 20;
// libjsonnet's parser recurses without a limit of its own: a million brackets would end the
// process.
constexpr int kMaxNesting = 256;

struct Source {
  fs::path path;
  std::string text;
};

bool is_file(const fs::path& path) {
  std::error_code error;
  return fs::is_regular_file(path, error);
}

std::optional<fs::path> locate(const fs::path& name, const fs::path& folder,
                               const Paths& search_paths) {
  if (is_file(folder / name)) return folder / name;  // an absolute name replaces the folder
  for (const fs::path& other : search_paths) {
    if (is_file(other / name)) return other / name;
  }
  return std::nullopt;
}

std::string not_found(const fs::path& name, const fs::path& folder, const Paths& search_paths) {
  std::string looked = folder.empty() ? "." : folder.string();
  for (const fs::path& other : search_paths) looked += ", " + other.string();
  return fmt::format("no such file: \"{}\"; looked in {}", name.string(), looked);
}

// Brackets in strings and comments count too: no config has hundreds of those left open.
void check_nesting(const Source& source) {
  int depth = 0;
  int line = 1;
  for (const char c : source.text) {
    line += c == '\n' ? 1 : 0;
    depth += c == '(' || c == '[' || c == '{' ? 1 : 0;
    depth -= c == ')' || c == ']' || c == '}' ? 1 : 0;
    NIBBLE_CHECK(depth <= kMaxNesting, "config", "{}:{}: brackets nest deeper than {}",
                 source.path.string(), line, kMaxNesting);
  }
}

Source read_source(const fs::path& path) {
  std::ifstream in(path, std::ios::binary);
  Source source{path, {}};
  source.text.resize(kMaxBytes + 1);
  in.read(source.text.data(), static_cast<std::streamsize>(source.text.size()));
  NIBBLE_CHECK(in.gcount() > 0 || in.eof(), "config", "cannot read {}", path.string());
  source.text.resize(static_cast<std::size_t>(in.gcount()));
  NIBBLE_CHECK(source.text.size() <= kMaxBytes, "config", "{}: larger than 1 MiB", path.string());
  NIBBLE_CHECK(source.text.find('\0') == std::string::npos, "config",
               "{}: not a text file: it holds a zero byte", path.string());
  check_nesting(source);
  return source;
}

// libjsonnet owns its strings through the machine that made them.
class Machine {
 public:
  explicit Machine(const Paths& search_paths) : search_paths_(search_paths), vm_(jsonnet_make()) {
    jsonnet_import_callback(vm_, &Machine::import, this);
    jsonnet_max_trace(vm_, 0);
  }
  ~Machine() { jsonnet_destroy(vm_); }
  Machine(const Machine&) = delete;
  Machine& operator=(const Machine&) = delete;

  // The JSON text, or the error text when `failed`.
  std::string evaluate(const std::string& snippet, bool& failed) {
    int error = 0;
    char* text = jsonnet_evaluate_snippet(vm_, "", snippet.c_str(), &error);
    const std::string result = text;
    jsonnet_realloc(vm_, text, 0);
    failed = error != 0;
    return result;
  }
  // What read_source said about an imported file, which is better than Jsonnet's account of it.
  const std::optional<Error>& source_error() const { return source_error_; }

 private:
  static char* import(void* context, const char* base, const char* name, char** found_here,
                      int* success) {
    auto& self = *static_cast<Machine*>(context);
    std::string text;
    try {  // no exception may pass through C code
      const std::optional<fs::path> path = locate(name, base, self.search_paths_);
      *success = path.has_value() ? 1 : 0;
      if (path) {
        text = read_source(*path).text;
        *found_here = self.copy(path->string());
      } else {
        text = not_found(name, base, self.search_paths_);
      }
    } catch (const Error& error) {
      *success = 0;
      self.source_error_ = error;
      text = error.what();
    }
    return self.copy(text);
  }

  char* copy(const std::string& text) {
    char* buffer = jsonnet_realloc(vm_, nullptr, text.size() + 1);
    std::memcpy(buffer, text.c_str(), text.size() + 1);
    return buffer;
  }

  const Paths& search_paths_;
  JsonnetVm* vm_;
  std::optional<Error> source_error_;
};

// Jsonnet's report is "KIND ERROR: message\n\tfile:line:columns\twhere\n…"; ours is one line that
// begins with the place in the user's own files.
[[noreturn]] void report(const std::string& text, const std::string& files) {
  const std::string_view all = text;
  std::size_t begin = all.find(": ");
  begin = begin == std::string_view::npos ? 0 : begin + 2;
  const std::size_t trace = std::min(all.find("\n\t", begin), all.size());
  std::string message(all.substr(begin, trace - begin));
  while (!message.empty() && message.back() == '\n') message.pop_back();
  std::replace(message.begin(), message.end(), '\n', ' ');

  for (std::size_t at = trace; at + 2 < all.size();) {
    const std::size_t end = std::min(all.find('\n', at + 2), all.size());
    const std::string_view frame = all.substr(at + 2, end - at - 2);
    const std::string_view place = frame.substr(0, frame.find('\t'));
    at = end;
    const bool own =
        place.find(':') != std::string_view::npos && !place.starts_with("std.jsonnet:");
    // Our own snippet has no name, so its frames begin with the line's digits.
    const bool snippet = !place.empty() && place[0] >= '0' && place[0] <= '9';
    if (own && !snippet) fail("config", "{}: {}", place, message);
  }
  if (all.starts_with("STATIC")) fail("config", "{}", message);  // the place is in the message
  fail("config", "{}: {}", files, message);
}

}  // namespace

Paths split_files(std::string_view list) {
  Paths files;
  for (std::size_t begin = 0; begin <= list.size();) {
    const std::size_t end = std::min(list.find(',', begin), list.size());
    NIBBLE_CHECK(end > begin, "config", "got \"{}\" expected files as a.jsonnet,b.jsonnet", list);
    files.emplace_back(list.substr(begin, end - begin));
    begin = end + 1;
  }
  return files;
}

Paths default_search_paths() {
  Paths paths;
  std::error_code error;
  const fs::path program = fs::read_symlink("/proc/self/exe", error);
  const fs::path installed = program.parent_path().parent_path() / NIBBLE_CONFIGS_INSTALLED;
  for (const fs::path& path : {installed, fs::path(NIBBLE_CONFIGS_SOURCE)}) {
    if (fs::is_directory(path, error)) paths.push_back(path);
  }
  return paths;
}

Json evaluate(const Paths& files, const Paths& search_paths) {
  std::string snippet;
  std::string names;
  for (const fs::path& file : files) {
    const std::optional<fs::path> path = locate(file, {}, search_paths);
    NIBBLE_CHECK(path, "config", "{}", not_found(file, {}, search_paths));
    // A JSON string is a Jsonnet string.
    snippet += (snippet.empty() ? "" : " + ") + ("(import " + Json(path->string()).dump() + ")");
    names += (names.empty() ? "" : ",") + file.string();
  }
  NIBBLE_CHECK(!files.empty(), "config", "no config file given");

  Machine machine(search_paths);
  bool failed = false;
  const std::string text = machine.evaluate(snippet, failed);
  if (failed && machine.source_error()) throw *machine.source_error();
  if (failed) report(text, names);
  Json result = Json::parse(text);
  NIBBLE_CHECK(result.is_object(), "config", "{}: got {} expected an object", names,
               kind_of(result));
  return result;
}

Json load(const Paths& files, const std::vector<std::string>& overrides,
          const Paths& search_paths) {
  Json config = files.empty() ? Json::object() : evaluate(files, search_paths);
  for (const std::string& assignment : overrides) apply_override(config, assignment);
  return config;
}

std::string jsonnet_version_text() { return ::jsonnet_version(); }

}  // namespace nibble::config
