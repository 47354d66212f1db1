// The folder that a dataset is written to.
#pragma once

#include <filesystem>

namespace nibble {

// Throws Error("tokenize") when `path` is not a new or empty folder.
void check_output_folder(const std::filesystem::path& path);

// Made when it is missing; empty again, or gone, unless the work in it succeeds.
class OutputFolder {
 public:
  explicit OutputFolder(std::filesystem::path path);
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
