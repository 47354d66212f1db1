#include "apps/run/run_info.h"

#include <fmt/chrono.h>
#include <sched.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <Eigen/Core>
#include <ctime>
#include <fstream>
#include <utility>

#include "apps/config/jsonnet.h"
#include "apps/run/append_file.h"
#include "tensor/atomic_file.h"
#include "tensor/check.h"
#include "tensor/json_text.h"

namespace nibble::run {
namespace {

std::string cpu_model() {
  std::ifstream in("/proc/cpuinfo");
  for (std::string line; std::getline(in, line);) {
    if (line.starts_with("model name") && line.find(": ") != std::string::npos) {
      return line.substr(line.find(": ") + 2);
    }
  }
  return "unknown";
}

std::map<std::string, std::string> library_versions() {
  return {
      {"Eigen",
       fmt::format("{}.{}.{}", EIGEN_WORLD_VERSION, EIGEN_MAJOR_VERSION, EIGEN_MINOR_VERSION)},
      {"fmt",
       fmt::format("{}.{}.{}", FMT_VERSION / 10000, FMT_VERSION / 100 % 100, FMT_VERSION % 100)},
      {"jsonnet", config::jsonnet_version_text()},
      {"nlohmann-json", fmt::format("{}.{}.{}", NLOHMANN_JSON_VERSION_MAJOR,
                                    NLOHMANN_JSON_VERSION_MINOR, NLOHMANN_JSON_VERSION_PATCH)},
  };
}

}  // namespace

Machine this_machine() {
  Machine machine;
  utsname system{};
  if (::uname(&system) == 0) {
    machine.system = fmt::format("{} {} {}", system.sysname, system.release, system.machine);
  }
  machine.cpu = cpu_model();
  machine.cores = static_cast<int>(::sysconf(_SC_NPROCESSORS_ONLN));
  cpu_set_t usable;
  // Fails where there are more cores than the set has bits; then nothing restricts us that we know
  // of.
  const bool known = ::sched_getaffinity(0, sizeof usable, &usable) == 0;
  machine.usable_cores = known ? CPU_COUNT(&usable) : machine.cores;
  machine.memory_bytes = static_cast<std::uint64_t>(::sysconf(_SC_PHYS_PAGES)) *
                         static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE));
  return machine;
}

RunInfo describe_run(Json config, std::vector<std::string> command, std::string data_hash) {
  return {.config = std::move(config),
          .command = std::move(command),
          .start_time = fmt::format("{:%Y-%m-%dT%H:%M:%SZ}", fmt::gmtime(std::time(nullptr))),
          .data_hash = std::move(data_hash),
          .plan_hash = "",
          .libraries = library_versions(),
          .build = build_info(),
          .machine = this_machine()};
}

Json to_json(const RunInfo& info) {
  return {
      {"start_time", info.start_time},
      {"command", info.command},
      {"config", info.config},
      {"data_hash", info.data_hash},
      {"plan_hash", info.plan_hash},
      {"build",
       {{"version", info.build.version},
        {"commit", info.build.commit},
        {"dirty", info.build.dirty},
        {"compiler", info.build.compiler},
        {"build_type", info.build.build_type},
        {"flags", info.build.flags}}},
      {"libraries", info.libraries},
      {"machine",
       {{"system", info.machine.system},
        {"cpu", info.machine.cpu},
        {"cores", info.machine.cores},
        {"usable_cores", info.machine.usable_cores},
        {"memory_bytes", info.machine.memory_bytes}}},
  };
}

void record_session(const std::filesystem::path& path, const RunInfo& info) {
  const std::string old = read_whole_file(path, "run");
  Json file = {{"sessions", Json::array()}};
  if (!old.empty()) file = parse_json<Json>(old);
  const bool ours = file.is_object() && file.contains("sessions") && file["sessions"].is_array();
  NIBBLE_CHECK(ours, "run", "{} is damaged: expected {{\"sessions\": […]}}", path.string());
  file["sessions"].push_back(to_json(info));
  // A command line may hold any bytes; the rest is valid UTF-8 already.
  const std::string text =
      file.dump(2, ' ', /*ensure_ascii=*/false, Json::error_handler_t::replace);
  write_file_atomically(path, text + "\n", "run");
}

}  // namespace nibble::run
