// A folder that is written whole or not at all: of a dataset, an import or an export.
#pragma once

#include <filesystem>
#include <string_view>

namespace nibble {

// Throws Error(op) when `path` is not a new or empty folder.
void check_output_folder(const std::filesystem::path& path, std::string_view op = "tokenize");

// Made when it is missing; empty again, or gone, unless the work in it succeeds.
class OutputFolder {
 public:
  explicit OutputFolder(std::filesystem::path path, std::string_view op = "tokenize");
  ~OutputFolder();
  OutputFolder(const OutputFolder&) = delete;
  OutputFolder& operator=(const OutputFolder&) = delete;
  void keep() { kept_ = true; }

 private:
  std::filesystem::path path_;
  bool created_ = false;
  bool kept_ = false;
};

}  // namespace nibble
