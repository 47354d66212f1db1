#include "tensor/out_of_memory.h"

#include <algorithm>
#include <array>
#include <utility>
#include <vector>

namespace nibble {
namespace {

constexpr const char* kHint = "a smaller batch or checkpointing per block needs less";

std::int64_t sum(const Shortage& s) {
  std::int64_t total = 0;
  for (const auto& [scope, bytes] : s.in_use) total += bytes;
  return total;
}

std::string cause_of(const Shortage& s) {
  std::string text =
      fmt::format("out of memory on {}: got {} asked for", s.device, size_text(s.asked));
  if (!s.purpose.empty()) text += " by " + s.purpose;
  if (s.memory)
    text += fmt::format(", expected at most the {} free of {}", size_text(s.memory->free),
                        size_text(s.memory->total));
  text += fmt::format("; in use: {}", size_text(sum(s)));
  std::vector<std::pair<std::string, std::int64_t>> parts(s.in_use.begin(), s.in_use.end());
  std::stable_sort(parts.begin(), parts.end(),
                   [](const auto& a, const auto& b) { return a.second > b.second; });
  const char* join = ", of them ";
  for (const auto& [scope, bytes] : parts) {
    if (bytes == 0) continue;
    text += fmt::format("{}{} {}", std::exchange(join, ", "), scope.empty() ? "other" : scope,
                        size_text(bytes));
  }
  return text;
}

}  // namespace

OutOfMemory::OutOfMemory(Shortage shortage)
    : Error("allocate", fmt::format("{}; {}", cause_of(shortage), kHint)),
      shortage_(std::move(shortage)) {}

std::string OutOfMemory::cause() const { return cause_of(shortage_); }
std::int64_t OutOfMemory::in_use() const { return sum(shortage_); }

std::string size_text(std::int64_t bytes) {
  if (bytes < 1024) return fmt::format("{} B", bytes);
  constexpr std::array<const char*, 4> kUnits{"KiB", "MiB", "GiB", "TiB"};
  double size = static_cast<double>(bytes) / 1024;
  std::size_t unit = 0;
  // 1023.95 would be printed as 1024.0.
  for (; size >= 1023.95 && unit + 1 < kUnits.size(); ++unit) size /= 1024;
  return fmt::format("{:.1f} {}", size, kUnits[unit]);
}

}  // namespace nibble
