#include "tensor/host_memory.h"

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <map>
#include <string>

namespace nibble {
namespace {

namespace fs = std::filesystem;
using Numbers = std::map<std::string, std::int64_t>;

// "word number …" a line.
Numbers read_numbers(const fs::path& path) {
  Numbers numbers;
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    const std::size_t gap = line.find_first_of(" \t");
    if (gap == std::string::npos) continue;
    numbers[line.substr(0, gap)] = std::atoll(line.c_str() + gap);
  }
  return numbers;
}

std::optional<std::int64_t> read_number(const fs::path& path) {
  std::int64_t number = 0;
  if (std::ifstream(path) >> number) return number;
  return std::nullopt;  // "max" is no number either: no limit
}

}  // namespace

std::optional<DeviceMemory> host_memory(const fs::path& meminfo, const fs::path& group) {
  std::optional<DeviceMemory> memory;
  const Numbers machine = read_numbers(meminfo);
  if (machine.contains("MemAvailable:") && machine.contains("MemTotal:")) {
    const auto swap = machine.find("SwapFree:");
    const std::int64_t spare = swap == machine.end() ? 0 : swap->second;
    memory = {1024 * (machine.at("MemAvailable:") + spare), 1024 * machine.at("MemTotal:")};
  }
  const auto limit = read_number(group / "memory.max"),
             used = read_number(group / "memory.current");
  if (!limit || !used) return memory;
  // The group's file cache counts as used, and is given up before anything fails.
  std::int64_t cache = 0;
  const Numbers uses = read_numbers(group / "memory.stat");
  for (const char* kind : {"inactive_file", "active_file"})
    if (const auto found = uses.find(kind); found != uses.end()) cache += found->second;
  const std::int64_t left = std::max<std::int64_t>(*limit - *used + std::min(cache, *used), 0);
  if (!memory) return DeviceMemory{left, *limit};
  return DeviceMemory{std::min(memory->free, left), std::min(memory->total, *limit)};
}

std::optional<DeviceMemory> host_memory() { return host_memory("/proc/meminfo", "/sys/fs/cgroup"); }

}  // namespace nibble
