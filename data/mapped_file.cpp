#include "data/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <system_error>
#include <utility>

#include "tensor/check.h"

namespace nibble {

MappedFile::MappedFile(const std::filesystem::path& path) {
  const auto message = [] { return std::generic_category().message(errno); };
  const int file = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  NIBBLE_CHECK(file >= 0, "data", "cannot open {}: {}", path.string(), message());
  struct stat status {};
  void* address = MAP_FAILED;
  const bool regular = ::fstat(file, &status) == 0 && S_ISREG(status.st_mode);
  // An empty file cannot be mapped, and needs no memory.
  if (regular && status.st_size > 0) {
    address =
        ::mmap(nullptr, static_cast<std::size_t>(status.st_size), PROT_READ, MAP_PRIVATE, file, 0);
  }
  const std::string reason = message();
  ::close(file);
  NIBBLE_CHECK(regular, "data", "{} is not a regular file", path.string());
  if (status.st_size == 0) return;
  NIBBLE_CHECK(address != MAP_FAILED, "data", "cannot map {}: {}", path.string(), reason);
  bytes_ = {static_cast<const std::byte*>(address), static_cast<std::size_t>(status.st_size)};
}

MappedFile::MappedFile(MappedFile&& other) noexcept : bytes_(std::exchange(other.bytes_, {})) {}

MappedFile::~MappedFile() {
  if (!bytes_.empty()) ::munmap(const_cast<std::byte*>(bytes_.data()), bytes_.size());
}

}  // namespace nibble
