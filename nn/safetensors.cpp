#include "nn/safetensors.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <nlohmann/json.hpp>
#include <set>

#include "tensor/atomic_file.h"
#include "tensor/json_text.h"

namespace nibble {
namespace {

using OrderedJson = nlohmann::ordered_json;  // what is written keeps its order
using Json = nlohmann::json;
constexpr std::uint64_t kMaxHeader = 100u << 20;  // the format's own limit

// A dtype is written under its first name; foreign masks, BOOL, are read as the bytes they are.
constexpr std::array<std::pair<DType, std::string_view>, 9> kNames{{{DType::F64, "F64"},
                                                                    {DType::F32, "F32"},
                                                                    {DType::BF16, "BF16"},
                                                                    {DType::I32, "I32"},
                                                                    {DType::U8, "U8"},
                                                                    {DType::I8, "I8"},
                                                                    {DType::E4M3, "F8_E4M3"},
                                                                    {DType::E5M2, "F8_E5M2"},
                                                                    {DType::U8, "BOOL"}}};

std::string_view dtype_name(DType dtype) {
  for (const auto& [d, name] : kNames)
    if (d == dtype) return name;
  fail("safetensors", "dtype {} has no name in the format", dtype);
}

// nlohmann would cut 1.5 to 1; beyond int64 it wraps to a negative number, which no caller takes.
std::int64_t integer(const Json& value) {
  if (!value.is_number_integer()) fail("safetensors", "got {}, expected an integer", value.dump());
  return value.get<std::int64_t>();
}

}  // namespace

std::pair<DType, Shape> stored_form(const Tensor& t) {
  if (t.dtype() == DType::U4x2) return {DType::U8, Shape{t.bytes()}};
  return {t.dtype(), t.shape()};
}

void write_safetensors(const std::filesystem::path& path, const NamedTensors& tensors,
                       const Metadata& metadata) {
  OrderedJson header = OrderedJson::object();
  if (!metadata.empty()) header["__metadata__"] = metadata;
  std::int64_t offset = 0;
  for (const auto& [name, tensor] : tensors) {
    NIBBLE_CHECK(name != "__metadata__" && !header.contains(name), "safetensors",
                 "{}: the name '{}' occurs twice", path.string(), name);
    NIBBLE_CHECK(tensor.device().is_cpu() && tensor.is_contiguous(), "safetensors",
                 "{}: '{}' must be a contiguous cpu tensor: got {}", path.string(), name,
                 describe(tensor));
    const auto [dtype, shape] = stored_form(tensor);
    header[name] = {{"dtype", dtype_name(dtype)},
                    {"shape", std::vector<std::int64_t>(shape.begin(), shape.end())},
                    {"data_offsets", {offset, offset + tensor.bytes()}}};
    offset += tensor.bytes();
  }
  std::string text = header.dump();
  text.append((8 - text.size() % 8) % 8, ' ');  // data starts on 8 bytes
  const std::uint64_t length = text.size();
  AtomicFile file(path);
  file.write(&length, sizeof length);
  file.write(text.data(), text.size());
  for (const auto& [name, tensor] : tensors)
    file.write(tensor.raw(), static_cast<std::size_t>(tensor.bytes()));
  file.commit();
}

SafetensorsFile::SafetensorsFile(const std::filesystem::path& path) : path_(path) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  NIBBLE_CHECK(fd >= 0, "safetensors", "{}: cannot open: {}", path.string(), std::strerror(errno));
  struct stat info {};
  const bool known = ::fstat(fd, &info) == 0 && S_ISREG(info.st_mode);
  size_ = known ? static_cast<std::size_t>(info.st_size) : 0;
  void* map = size_ >= 8 ? ::mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, fd, 0) : MAP_FAILED;
  ::close(fd);
  NIBBLE_CHECK(known, "safetensors", "{}: not a regular file", path.string());
  NIBBLE_CHECK(size_ >= 8, "safetensors",
               "{}: got {} bytes, expected at least a header length of 8", path.string(), size_);
  NIBBLE_CHECK(map != MAP_FAILED, "safetensors", "{}: cannot map: {}", path.string(),
               std::strerror(errno));
  map_ = static_cast<const std::byte*>(map);
  try {
    std::uint64_t length = 0;
    std::memcpy(&length, map_, sizeof length);
    NIBBLE_CHECK(
        length <= kMaxHeader && length <= size_ - 8, "safetensors",
        "{}: got a header of {} bytes in a file of {}; truncated or not a safetensors file",
        path.string(), length, size_);
    data_begin_ = 8 + static_cast<std::size_t>(length);
    parse_header({reinterpret_cast<const char*>(map_) + 8, static_cast<std::size_t>(length)});
  } catch (...) {
    ::munmap(const_cast<std::byte*>(map_), size_);
    throw;
  }
}

SafetensorsFile::~SafetensorsFile() { ::munmap(const_cast<std::byte*>(map_), size_); }

void SafetensorsFile::parse_header(std::string_view text) {
  const std::string file = path_.string();
  std::vector<std::string> names;  // the order of the file, in which a checksum takes them
  const auto header = parse_json<Json>(text, names);
  NIBBLE_CHECK(header.is_object(), "safetensors", "{}: the header is not a JSON object", file);
  std::set<std::string_view> seen;
  for (const std::string& name : names)
    NIBBLE_CHECK(seen.insert(name).second, "safetensors", "{}: the name '{}' occurs twice", file,
                 name);
  const std::uint64_t available = size_ - data_begin_;
  for (const std::string& name : names) {
    const Json& value = header.at(name);
    try {
      if (name == "__metadata__") {
        metadata_ = value.get<Metadata>();
        continue;
      }
      Entry e{name, DType::F32, {}, 0, 0};
      const auto dtype = value.at("dtype").get<std::string>();
      const auto* known = std::find_if(kNames.begin(), kNames.end(),
                                       [&](const auto& n) { return n.second == dtype; });
      NIBBLE_CHECK(known != kNames.end(), "safetensors",
                   "{}: '{}' has dtype {}, which is not supported", file, name, dtype);
      e.dtype = known->first;
      std::int64_t count = 1;
      for (const Json& extent : value.at("shape")) {
        const std::int64_t d = integer(extent);
        NIBBLE_CHECK(d >= 0 && (d == 0 || count <= INT64_MAX / d / 8), "safetensors",
                     "{}: '{}' has an impossible shape", file, name);
        e.shape.push_back(d);
        count *= d;
      }
      const Json& offsets = value.at("data_offsets");
      NIBBLE_CHECK(offsets.is_array() && offsets.size() == 2, "safetensors",
                   "{}: '{}' needs two data_offsets", file, name);
      e.begin = static_cast<std::uint64_t>(integer(offsets[0]));
      e.end = static_cast<std::uint64_t>(integer(offsets[1]));
      NIBBLE_CHECK(e.begin <= e.end && e.end <= available, "safetensors",
                   "{}: '{}' lies at bytes {} to {} of {}; truncated or corrupt", file, name,
                   e.begin, e.end, available);
      NIBBLE_CHECK(e.end - e.begin == static_cast<std::uint64_t>(bytes_of(e.dtype, count)),
                   "safetensors", "{}: '{}' has {} bytes, expected {} for {}{}", file, name,
                   e.end - e.begin, bytes_of(e.dtype, count), e.dtype, e.shape);
      entries_.push_back(std::move(e));
    } catch (const nlohmann::json::exception&) {
      fail("safetensors", "{}: the header's entry '{}' is malformed", file, name);
    }
  }
  std::vector<std::pair<std::uint64_t, std::uint64_t>> spans;
  for (const Entry& e : entries_)
    if (e.end > e.begin) spans.emplace_back(e.begin, e.end);
  std::sort(spans.begin(), spans.end());
  for (std::size_t i = 1; i < spans.size(); ++i)
    NIBBLE_CHECK(spans[i - 1].second <= spans[i].first, "safetensors",
                 "{}: two tensors overlap at byte {}", file, spans[i].first);
}

const SafetensorsFile::Entry* SafetensorsFile::find(std::string_view name) const {
  for (const Entry& e : entries_)
    if (e.name == name) return &e;
  return nullptr;
}

std::span<const std::byte> SafetensorsFile::data() const {
  return {map_ + data_begin_, size_ - data_begin_};
}

std::span<const std::byte> SafetensorsFile::bytes(const Entry& e) const {
  return data().subspan(static_cast<std::size_t>(e.begin),
                        static_cast<std::size_t>(e.end - e.begin));
}

void SafetensorsFile::read_into(const Entry& e, Tensor& destination) const {
  const std::span<const std::byte> source = bytes(e);
  if (destination.dtype() == DType::U4x2) {
    NIBBLE_CHECK(
        e.dtype == DType::U8 && static_cast<std::int64_t>(source.size()) == destination.bytes(),
        "safetensors", "{}: '{}' is {}{}, expected {} bytes of codes", path_.string(), e.name,
        e.dtype, e.shape, destination.bytes());
  } else {
    NIBBLE_CHECK(e.shape == destination.shape(), "safetensors",
                 "{}: '{}' has shape {}, expected {}", path_.string(), e.name, e.shape,
                 destination.shape());
    if (e.dtype != destination.dtype()) {
      NIBBLE_CHECK(is_float(e.dtype) && is_float(destination.dtype()), "safetensors",
                   "{}: '{}' is {}, expected {}", path_.string(), e.name, e.dtype,
                   destination.dtype());
      destination.copy_from(read(e));
      return;
    }
  }
  NIBBLE_CHECK(destination.is_contiguous(), "safetensors", "'{}' is read into a strided view",
               e.name);
  if (!destination.device().is_cpu()) {
    Tensor host = Tensor::empty(destination.shape(), destination.dtype());
    read_into(e, host);
    destination.copy_from(host);
    return;
  }
  if (!source.empty()) std::memcpy(destination.raw(), source.data(), source.size());
  destination.bump_version();
}

Tensor SafetensorsFile::read(const Entry& e) const {
  Tensor t = Tensor::empty(e.shape, e.dtype);
  const std::span<const std::byte> source = bytes(e);
  if (!source.empty()) std::memcpy(t.raw(), source.data(), source.size());
  return t;
}

}  // namespace nibble
