#include "apps/run/append_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <fstream>
#include <iterator>
#include <utility>

#include "tensor/atomic_file.h"
#include "tensor/check.h"

namespace nibble::run {

AppendFile::AppendFile(std::filesystem::path path, std::string_view op)
    : path_(std::move(path)), op_(op) {
  fd_ = ::open(path_.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
  NIBBLE_CHECK(fd_ >= 0, op_, "cannot open {}: {}", path_.string(), error_text(errno));
}

AppendFile::~AppendFile() { ::close(fd_); }

void AppendFile::append(std::string_view record) {
  const off_t before = ::lseek(fd_, 0, SEEK_END);
  while (!record.empty()) {
    const ssize_t done = ::write(fd_, record.data(), record.size());
    if (done < 0 && errno == EINTR) continue;
    if (done <= 0) {
      const int error = done < 0 ? errno : EIO;
      // Half a record would make the next one unreadable.
      const bool whole = before >= 0 && ::ftruncate(fd_, before) == 0;
      fail(op_, "cannot append to {}: {}{}", path_.string(), error_text(error),
           whole ? "" : "; its last record is cut short");
    }
    record.remove_prefix(static_cast<std::size_t>(done));
  }
}

bool AppendFile::empty() const {
  struct stat status {};
  return ::fstat(fd_, &status) == 0 && status.st_size == 0;
}

std::string read_whole_file(const std::filesystem::path& path, std::string_view op) {
  std::error_code error;
  if (!std::filesystem::exists(path, error) && !error) return {};
  std::ifstream in(path, std::ios::binary);
  std::string bytes{std::istreambuf_iterator<char>(in), {}};
  NIBBLE_CHECK(in.good() || in.eof(), op, "cannot read {}", path.string());
  return bytes;
}

}  // namespace nibble::run
