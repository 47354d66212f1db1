#include "apps/train/checkpoints.h"

#include <algorithm>
#include <charconv>

#include "tensor/atomic_file.h"

namespace nibble::train {
namespace {

namespace fs = std::filesystem;
constexpr std::string_view kPrefix = "step_", kSuffix = ".safetensors";

std::optional<std::int64_t> step_of(const std::string& name) {
  if (!name.starts_with(kPrefix) || !name.ends_with(kSuffix)) return std::nullopt;
  const char* begin = name.data() + kPrefix.size();
  const char* end = name.data() + name.size() - kSuffix.size();
  std::int64_t step = 0;
  const auto [rest, error] = std::from_chars(begin, end, step);
  if (error != std::errc{} || rest != end || step < 0) return std::nullopt;
  return step;
}

}  // namespace

fs::path checkpoint_path(const fs::path& folder, std::int64_t step) {
  return folder / fmt::format("{}{:08}{}", kPrefix, step, kSuffix);
}

std::vector<CheckpointPath> list_checkpoints(const fs::path& folder) {
  std::vector<CheckpointPath> found;
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator(folder, ignored))
    if (const auto step = step_of(entry.path().filename().string()))
      found.push_back({*step, entry.path()});
  std::sort(found.begin(), found.end(),
            [](const auto& a, const auto& b) { return a.step < b.step; });
  return found;
}

void prune_checkpoints(const fs::path& folder, std::int64_t keep) {
  remove_stale_temporaries(folder);
  const std::vector<CheckpointPath> all = list_checkpoints(folder);
  for (std::size_t i = 0; i + static_cast<std::size_t>(keep) < all.size(); ++i) {
    std::error_code ignored;  // one left over is harmless; a run must not die of it
    fs::remove(all[i].path, ignored);
  }
}

Checkpoint open_newest(const fs::path& folder,
                       const std::function<void(const std::string&)>& warn) {
  std::vector<CheckpointPath> all = list_checkpoints(folder);
  NIBBLE_CHECK(!all.empty(), "resume", "{} holds no checkpoint", folder.string());
  for (; !all.empty(); all.pop_back()) {
    try {
      return Checkpoint::open(all.back().path);
    } catch (const Error& e) {
      if (std::string_view(e.what()).find("newer version") != std::string_view::npos) throw;
      warn(fmt::format("{}; trying the one before", e.what()));
    }
  }
  fail("resume", "{} holds no intact checkpoint", folder.string());
}

Checkpoint open_any(const fs::path& path, const std::function<void(const std::string&)>& warn) {
  NIBBLE_CHECK(fs::exists(path), "checkpoint", "{} does not exist", path.string());
  if (!fs::is_directory(path)) return Checkpoint::open(path);
  const fs::path inner = path / "checkpoints";
  return open_newest(fs::is_directory(inner) ? inner : path, warn);
}

}  // namespace nibble::train
