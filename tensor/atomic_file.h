// Files that appear whole or not at all, and the fault points that prove it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>

namespace nibble {

// Writes `path` aside (same folder, "<name>.tmp.<pid>-<n>"); commit() puts it in place. A kill, a
// full disk or an exception at any moment leaves the file that was there before untouched; the
// destructor removes what was not committed. Not safe for use by two threads at once.
//
// Every failure throws Error with `op` as its first word, e.g.
// "checkpoint: cannot write out/model.safetensors: no space left on device; the previous file is
// untouched".
class AtomicFile {
 public:
  explicit AtomicFile(std::filesystem::path path, std::string_view op = "checkpoint");
  ~AtomicFile();
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;

  // Appends. After a failure the temporary file is gone and every further call throws.
  void write(const void* bytes, std::size_t count);
  void write(std::string_view bytes) { write(bytes.data(), bytes.size()); }
  // Replaces bytes appended before, e.g. a header whose fields are known last.
  void overwrite(std::uint64_t offset, const void* bytes, std::size_t count);
  // Bytes appended so far.
  std::uint64_t written() const { return written_; }
  // fsync, rename, fsync of the folder. Once.
  void commit();

  const std::filesystem::path& path() const { return path_; }

 private:
  void check_open() const;
  void discard() noexcept;
  [[noreturn]] void abandon(int error);
  void pass_fault_point(const char* name);

  std::filesystem::path path_;
  std::filesystem::path temporary_;
  std::string op_;
  std::uint64_t written_ = 0;
  int fd_ = -1;
};

// The whole file at once.
void write_file_atomically(const std::filesystem::path& path, std::string_view contents,
                           std::string_view op = "checkpoint");

// An errno's text in lower case, because it stands after a colon: "no space left on device".
std::string error_text(int error);

// Removes temporary files of AtomicFile whose writer is dead; those of a living writer (it holds a
// flock on them) stay. Returns how many went. A folder that does not exist holds none.
std::size_t remove_stale_temporaries(const std::filesystem::path& folder);

// Test instrumentation, off unless the environment variable NIBBLE_FAULT is set:
// "name:N" raises SIGKILL on the process at the N-th passage (from 1) of the point called `name`;
// "name:N:enospc" makes that passage throw as if the disk were full. AtomicFile passes "write"
// before each write, "fsync" before the file's fsync and "rename" before the rename. A value that
// is neither form throws: a fault test that tests nothing must not pass.
void fault_point(const char* name);

}  // namespace nibble
