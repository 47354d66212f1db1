// A file that only grows, by whole records.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>

namespace nibble::run {

// Appends without a buffer of its own: what append() returned from survives the death of the
// process.
class AppendFile {
 public:
  // Opens or creates. `op` is the first word of errors. Throws when it cannot.
  AppendFile(std::filesystem::path path, std::string_view op);
  ~AppendFile();
  AppendFile(const AppendFile&) = delete;
  AppendFile& operator=(const AppendFile&) = delete;

  // All of `record` or, with an Error (a full disk), nothing of it.
  void append(std::string_view record);
  bool empty() const;

 private:
  std::filesystem::path path_;
  std::string op_;
  int fd_ = -1;
};

// The whole file; a missing one is empty. Throws when it cannot be read.
std::string read_whole_file(const std::filesystem::path& path, std::string_view op);

// What cutting a log back to a step did.
struct Truncation {
  std::size_t kept = 0;        // records
  std::size_t removed = 0;     // whole records after the step
  std::size_t torn_bytes = 0;  // of a last record that a kill cut short
};

}  // namespace nibble::run
