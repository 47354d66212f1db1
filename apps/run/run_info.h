// run.json: what was run, from which source, on what.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "apps/config/json.h"
#include "apps/run/build_info.h"

namespace nibble::run {

// The host's name is left out on purpose: runs get published.
struct Machine {
  std::string system;    // "Linux 6.1.0 x86_64"
  std::string cpu;       // model name
  int cores = 0;         // online
  int usable_cores = 0;  // those this process may use
  std::uint64_t memory_bytes = 0;
};

Machine this_machine();

// One start of the program on a run's folder.
struct RunInfo {
  Json config;                                   // resolved: every default is there
  std::vector<std::string> command;              // argv
  std::string start_time;                        // UTC, "2026-11-22T17:54:47Z"
  std::string data_hash;                         // of the training data, as its loader says
  std::string plan_hash;                         // of the plans of products in use; "": none
  std::map<std::string, std::string> libraries;  // name to version; callers add those they link
  BuildInfo build;
  Machine machine;
};

// Fills in time, build, machine, and the libraries known here.
RunInfo describe_run(Json config, std::vector<std::string> command, std::string data_hash);

Json to_json(const RunInfo& info);

// Appends `info` to {"sessions": […]} in the file at `path`, which each start of a run does,
// atomically. Throws "run: …" when the file there is something else.
void record_session(const std::filesystem::path& path, const RunInfo& info);

}  // namespace nibble::run
