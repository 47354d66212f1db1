// A program that runs beside this one, with its output in files: what a benchmark of whole programs
// starts, watches and ends.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

namespace nibble::bench {

// It has a process group of its own: Ctrl-C does not reach it, kill() does.
class Process {
 public:
  // Starts argv[0] (looked for in PATH). Throws Error("bench") when it cannot be started.
  Process(const std::vector<std::string>& argv, std::filesystem::path out,
          std::filesystem::path err);
  ~Process();  // a program that still runs is killed, with what it started
  Process(const Process&) = delete;
  Process& operator=(const Process&) = delete;

  // Its exit code once it has ended, 128 + the signal that ended it.
  std::optional<int> poll();
  int wait();
  void kill();
  // The most memory that it had on the host, bytes; once it has ended.
  std::int64_t peak_host_memory() const { return peak_; }

 private:
  std::optional<int> reap(int options);

  pid_t pid_ = -1;
  std::optional<int> code_;
  std::int64_t peak_ = 0;
};

// "python3 'a b.py' --x" as a shell would split it: blanks, quotes and backslashes, nothing else.
std::vector<std::string> split_command(const std::string& text);
// The last lines of a file, for messages.
std::string tail_of(const std::filesystem::path& file, std::size_t bytes = 400);

}  // namespace nibble::bench
