// The safetensors container (8-byte header length, JSON header, raw little-endian data).
#pragma once

#include <cstddef>
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "tensor/tensor.h"

namespace nibble {

using NamedTensors = std::vector<std::pair<std::string, Tensor>>;
using Metadata = std::map<std::string, std::string>;

// Written aside and renamed, so the file at `path` is the old one or the whole new one. Tensors
// must be contiguous CPU tensors; packed codes (U4x2) are stored as their bytes, U8. The order of
// the data is that of `tensors`. Errors: a name twice, no space, no permission.
void write_safetensors(const std::filesystem::path& path, const NamedTensors& tensors,
                       const Metadata& metadata);

// How a tensor is written: itself, or packed codes as their bytes.
std::pair<DType, Shape> stored_form(const Tensor& tensor);

class SafetensorsFile {
 public:
  struct Entry {
    std::string name;
    DType dtype;
    Shape shape;
    std::uint64_t begin, end;  // bytes of the data section
  };
  // Maps the file and checks the header: lengths, offsets inside the file, no overlap, sizes that
  // match the shapes. Throws Error("safetensors") naming file and entry.
  explicit SafetensorsFile(const std::filesystem::path& path);
  ~SafetensorsFile();
  SafetensorsFile(const SafetensorsFile&) = delete;
  SafetensorsFile& operator=(const SafetensorsFile&) = delete;

  const std::filesystem::path& path() const { return path_; }
  const Metadata& metadata() const { return metadata_; }
  const std::vector<Entry>& entries() const { return entries_; }
  const Entry* find(std::string_view name) const;
  std::span<const std::byte> bytes(const Entry& entry) const;
  std::span<const std::byte> data() const;  // of all tensors
  // Copies into a contiguous CPU tensor of the same shape; converts between float dtypes.
  void read_into(const Entry& entry, Tensor& destination) const;
  Tensor read(const Entry& entry) const;

 private:
  void parse_header(std::string_view header);

  std::filesystem::path path_;
  const std::byte* map_ = nullptr;
  std::size_t size_ = 0, data_begin_ = 0;
  Metadata metadata_;
  std::vector<Entry> entries_;
};

}  // namespace nibble
