#include "apps/run/run_folder.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <string>
#include <utility>

#include "apps/run/append_file.h"
#include "tensor/atomic_file.h"
#include "tensor/check.h"

namespace nibble::run {
namespace fs = std::filesystem;

bool RunFolder::holds_run(const fs::path& path) {
  std::error_code error;
  for (const char* name : {"run.json", "metrics.jsonl"}) {
    if (fs::exists(path / name, error)) return true;
  }
  // An empty one is what a run that failed to begin leaves.
  return fs::is_directory(path / "checkpoints", error) &&
         !fs::is_empty(path / "checkpoints", error);
}

RunFolder::RunFolder(fs::path path, Mode mode) : path_(std::move(path)) {
  if (mode == Mode::Resume) {
    // Before the lock: a folder that is none of ours gets no file from us.
    NIBBLE_CHECK(holds_run(path_), "run", "{} holds no run to resume", path_.string());
    lock();
    return;
  }
  std::error_code error;
  fs::create_directories(path_, error);
  NIBBLE_CHECK(!error, "run", "cannot make {}: {}", path_.string(), error_text(error.value()));
  lock();
  remove_stale_temporaries(checkpoints());
  if (holds_run(path_)) {
    ::close(lock_fd_);
    fail("run", "{} already holds a run; resume it with --resume or choose another folder",
         path_.string());
  }
}

RunFolder::~RunFolder() { ::close(lock_fd_); }

void RunFolder::lock() {
  const fs::path file = path_ / "lock";
  lock_fd_ = ::open(file.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666);
  NIBBLE_CHECK(lock_fd_ >= 0, "run", "cannot open {}: {}", file.string(), error_text(errno));
  if (::flock(lock_fd_, LOCK_EX | LOCK_NB) != 0) {
    const int error = errno;
    ::close(lock_fd_);
    NIBBLE_CHECK(error == EWOULDBLOCK, "run", "cannot lock {}: {}", file.string(),
                 error_text(error));
    fail("run", "{} is in use by process {}", path_.string(), read_whole_file(file, "run"));
  }
  // The id is for people; the lock is what counts, so a full disk is no reason to stop here.
  const std::string id = std::to_string(::getpid());
  const bool written =
      ::ftruncate(lock_fd_, 0) == 0 &&
      ::pwrite(lock_fd_, id.data(), id.size(), 0) == static_cast<ssize_t>(id.size());
  static_cast<void>(written);
}

}  // namespace nibble::run
