#include "data/output_folder.h"

#include <system_error>
#include <utility>

#include "tensor/check.h"

namespace nibble {

namespace fs = std::filesystem;

void check_output_folder(const fs::path& path, std::string_view op) {
  NIBBLE_CHECK(!path.empty(), op, "got no output folder");
  if (!fs::exists(path)) return;
  NIBBLE_CHECK(fs::is_directory(path), op, "{} is a file, expected a folder", path.string());
  NIBBLE_CHECK(fs::is_empty(path), op, "{} is not empty; hint: choose another folder, or remove it",
               path.string());
}

OutputFolder::OutputFolder(fs::path path, std::string_view op) : path_(std::move(path)) {
  check_output_folder(path_, op);
  std::error_code error;
  created_ = fs::create_directories(path_, error);
  NIBBLE_CHECK(!error, op, "cannot create {}: {}", path_.string(), error.message());
}

OutputFolder::~OutputFolder() {
  if (kept_) return;
  std::error_code ignored;
  for (fs::directory_iterator entry(path_, ignored), end; !ignored && entry != end;
       entry.increment(ignored)) {
    fs::remove(entry->path(), ignored);
  }
  if (created_) fs::remove(path_, ignored);
}

}  // namespace nibble
