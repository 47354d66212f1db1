#include "tensor/atomic_file.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <cerrno>
#include <charconv>
#include <csignal>
#include <cstdlib>
#include <mutex>
#include <optional>
#include <system_error>

#include "tensor/check.h"

namespace nibble {
namespace {

constexpr std::string_view kMarker = ".tmp.";

struct Fault {
  std::string name;
  std::uint64_t passage = 0;
  bool disk_full = false;
};

std::optional<Fault> parse_fault(std::string_view text) {
  Fault fault;
  const std::size_t colon = text.find(':');
  if (colon == 0 || colon == std::string_view::npos) return std::nullopt;
  fault.name = text.substr(0, colon);
  const char* end = text.data() + text.size();
  const auto [rest, status] = std::from_chars(text.data() + colon + 1, end, fault.passage);
  if (status != std::errc{} || fault.passage == 0) return std::nullopt;
  const std::string_view kind(rest, static_cast<std::size_t>(end - rest));
  if (!kind.empty() && kind != ":enospc") return std::nullopt;
  fault.disk_full = !kind.empty();
  return fault;
}

// 0, or the errno to pretend; does not return when the fault is a kill.
int injected_error(const char* name) {
  const char* setting = std::getenv("NIBBLE_FAULT");
  if (setting == nullptr || *setting == '\0') return 0;
  static std::mutex mutex;
  static std::string counted_setting;  // a changed setting starts a new count
  static std::uint64_t passages = 0;
  const std::optional<Fault> fault = parse_fault(setting);
  NIBBLE_CHECK(fault, "NIBBLE_FAULT", "got \"{}\" expected name:N or name:N:enospc", setting);
  if (fault->name != name) return 0;
  const std::lock_guard lock(mutex);
  if (counted_setting != setting) {
    counted_setting = setting;
    passages = 0;
  }
  if (++passages != fault->passage) return 0;
  if (!fault->disk_full) std::raise(SIGKILL);
  return ENOSPC;
}

std::filesystem::path folder_of(const std::filesystem::path& path) {
  return path.has_parent_path() ? path.parent_path() : std::filesystem::path(".");
}

// "<name>.tmp.<pid>-<n>"
bool is_temporary_name(std::string_view name) {
  const std::size_t marker = name.rfind(kMarker);
  if (marker == std::string_view::npos || marker == 0) return false;
  const std::string_view tail = name.substr(marker + kMarker.size());
  const std::size_t dash = tail.find('-');
  if (dash == 0 || dash == std::string_view::npos || dash + 1 == tail.size()) return false;
  const auto digits = [](std::string_view s) {
    return std::all_of(s.begin(), s.end(), [](char c) { return c >= '0' && c <= '9'; });
  };
  return digits(tail.substr(0, dash)) && digits(tail.substr(dash + 1));
}

}  // namespace

std::string error_text(int error) {
  std::string text = std::generic_category().message(error);
  if (!text.empty()) text[0] = static_cast<char>(std::tolower(static_cast<unsigned char>(text[0])));
  return text;
}

void fault_point(const char* name) {
  if (const int error = injected_error(name))
    fail("fault_point", "{}: {}", name, error_text(error));
}

AtomicFile::AtomicFile(std::filesystem::path path, std::string_view op)
    : path_(std::move(path)), op_(op) {
  NIBBLE_CHECK(path_.has_filename(), op_, "cannot write {}: not a file name", path_.string());
  // A number beside the pid: the same path twice in one process, or a dead process's leftover.
  for (unsigned n = 0; fd_ < 0; ++n) {
    temporary_ = folder_of(path_) / fmt::format("{}{}{}-{}", path_.filename().string(), kMarker,
                                                static_cast<long>(::getpid()), n);
    fd_ = ::open(temporary_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (fd_ < 0 && errno != EEXIST && errno != EINTR) {
      fail(op_, "cannot create {}: {}", temporary_.string(), error_text(errno));
    }
  }
  // Held for the file's life: remove_stale_temporaries tells the living from the dead by it. Where
  // a file system knows no locks, nothing is held and nothing else is lost.
  static_cast<void>(::flock(fd_, LOCK_EX | LOCK_NB));
}

AtomicFile::~AtomicFile() { discard(); }

void AtomicFile::discard() noexcept {
  if (fd_ < 0) return;
  ::unlink(temporary_.c_str());
  ::close(fd_);
  fd_ = -1;
}

void AtomicFile::abandon(int error) {
  discard();
  fail(op_, "cannot write {}: {}; the previous file is untouched", path_.string(),
       error_text(error));
}

void AtomicFile::pass_fault_point(const char* name) {
  if (const int error = injected_error(name)) abandon(error);
}

void AtomicFile::check_open() const {
  NIBBLE_CHECK(fd_ >= 0, op_, "{} is closed: a write failed or it was committed", path_.string());
}

void AtomicFile::write(const void* bytes, std::size_t count) {
  check_open();
  pass_fault_point("write");
  const char* next = static_cast<const char*>(bytes);
  while (count > 0) {
    const ssize_t done = ::write(fd_, next, count);
    if (done < 0 && errno == EINTR) continue;
    if (done <= 0) abandon(done < 0 ? errno : EIO);
    next += done;
    count -= static_cast<std::size_t>(done);
    written_ += static_cast<std::uint64_t>(done);
  }
}

void AtomicFile::overwrite(std::uint64_t offset, const void* bytes, std::size_t count) {
  check_open();
  NIBBLE_CHECK(offset <= written_ && count <= written_ - offset, op_,
               "cannot overwrite {} bytes at {} of {}: it has {}", count, offset, path_.string(),
               written_);
  pass_fault_point("write");
  const char* next = static_cast<const char*>(bytes);
  while (count > 0) {
    const ssize_t done = ::pwrite(fd_, next, count, static_cast<off_t>(offset));
    if (done < 0 && errno == EINTR) continue;
    if (done <= 0) abandon(done < 0 ? errno : EIO);
    next += done;
    offset += static_cast<std::uint64_t>(done);
    count -= static_cast<std::size_t>(done);
  }
}

void AtomicFile::commit() {
  check_open();
  pass_fault_point("fsync");
  if (::fsync(fd_) != 0) abandon(errno);
  pass_fault_point("rename");
  if (::rename(temporary_.c_str(), path_.c_str()) != 0) abandon(errno);
  ::close(fd_);  // after fsync nothing is left that close could lose
  fd_ = -1;

  // The rename itself lives in the folder. EINVAL: file systems whose folders know no fsync.
  const std::filesystem::path folder = folder_of(path_);
  const int folder_fd = ::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  const bool synced = folder_fd >= 0 && (::fsync(folder_fd) == 0 || errno == EINVAL);
  const int error = errno;
  if (folder_fd >= 0) ::close(folder_fd);
  NIBBLE_CHECK(synced, op_, "{} is in place, but its folder could not be synced: {}",
               path_.string(), error_text(error));
}

void write_file_atomically(const std::filesystem::path& path, std::string_view contents,
                           std::string_view op) {
  AtomicFile file(path, op);
  file.write(contents);
  file.commit();
}

std::size_t remove_stale_temporaries(const std::filesystem::path& folder) {
  std::error_code error;
  std::size_t removed = 0;
  for (std::filesystem::directory_iterator entry(folder, error), end; !error && entry != end;
       entry.increment(error)) {
    if (!is_temporary_name(entry->path().filename().string())) continue;
    const int fd = ::open(entry->path().c_str(), O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0) continue;
    if (::flock(fd, LOCK_EX | LOCK_NB) == 0 && ::unlink(entry->path().c_str()) == 0) ++removed;
    ::close(fd);
  }
  NIBBLE_CHECK(!error || error == std::errc::no_such_file_or_directory, "remove_stale_temporaries",
               "cannot read {}: {}", folder.string(), error.message());
  return removed;
}

}  // namespace nibble
