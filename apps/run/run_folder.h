// The folder of one run, held by one process.
#pragma once

#include <filesystem>

namespace nibble::run {

class RunFolder {
 public:
  enum class Mode {
    New,     // makes the folder; refuses one that already holds a run
    Resume,  // refuses one that holds none
  };

  // Takes the lock of `path` (flock on the file "lock", which holds the process id) until its end,
  // also a violent one. Throws Error "run: …" when refused, in use by another process, or not
  // writable.
  RunFolder(std::filesystem::path path, Mode mode);
  ~RunFolder();
  RunFolder(const RunFolder&) = delete;
  RunFolder& operator=(const RunFolder&) = delete;

  const std::filesystem::path& path() const { return path_; }
  std::filesystem::path info() const { return path_ / "run.json"; }
  std::filesystem::path metrics() const { return path_ / "metrics.jsonl"; }
  std::filesystem::path events() const { return path_ / "events"; }
  std::filesystem::path checkpoints() const { return path_ / "checkpoints"; }

  // Whether a run has begun there: it has run.json, metrics or checkpoints.
  static bool holds_run(const std::filesystem::path& path);

 private:
  void lock();

  std::filesystem::path path_;
  int lock_fd_ = -1;
};

}  // namespace nibble::run
