#include "nn/checkpoint_file.h"

#include <xxhash.h>

#include <nlohmann/json.hpp>
#include <set>

#include "tensor/json_text.h"

namespace nibble {
namespace {

// Streams the bytes in file order, so that saving needs no copy of the tensors.
class Checksum {
 public:
  Checksum() : state_(XXH64_createState()) { XXH64_reset(state_, 0); }
  ~Checksum() { XXH64_freeState(state_); }
  Checksum(const Checksum&) = delete;
  Checksum& operator=(const Checksum&) = delete;
  void add(std::string_view text) { XXH64_update(state_, text.data(), text.size()); }
  // A tensor with all that says what its bytes mean.
  void add(std::string_view name, DType dtype, const Shape& shape,
           std::span<const std::byte> data) {
    add(fmt::format("{} {} {}", name, dtype, shape));
    if (!data.empty()) XXH64_update(state_, data.data(), data.size());
  }
  std::string hex() const { return fmt::format("{:016x}", XXH64_digest(state_)); }

 private:
  XXH64_state_t* state_;
};

}  // namespace

void save_checkpoint(const std::filesystem::path& path, const nlohmann::json& state,
                     const NamedTensors& all) {
  NamedTensors tensors;  // copies for those of a GPU, the tensors themselves otherwise
  for (const auto& [name, t] : all) tensors.emplace_back(name, t.to(kCpu));
  const std::string text = state.dump();
  Checksum sum;
  sum.add(text);
  for (const auto& [name, t] : tensors) {
    const auto [dtype, shape] = stored_form(t);
    sum.add(name, dtype, shape, {t.raw(), static_cast<std::size_t>(t.bytes())});
  }
  const nlohmann::json envelope = {{"version", kCheckpointVersion}, {"xxh64", sum.hex()}};
  write_safetensors(path, tensors, {{"nibble", envelope.dump()}, {"state", text}});
}

std::string checkpoint_checksum(std::string_view state, const SafetensorsFile& file) {
  Checksum sum;
  sum.add(state);
  for (const SafetensorsFile::Entry& e : file.entries())
    sum.add(e.name, e.dtype, e.shape, file.bytes(e));
  return sum.hex();
}

Checkpoint::Checkpoint() = default;
Checkpoint::~Checkpoint() = default;
Checkpoint::Checkpoint(Checkpoint&&) noexcept = default;
const nlohmann::json& Checkpoint::state() const { return *state_; }

Checkpoint Checkpoint::open(const std::filesystem::path& path) {
  const std::string name = path.string();
  Checkpoint c;
  try {
    c.file_ = std::make_unique<SafetensorsFile>(path);
  } catch (const Error& e) {
    fail("checkpoint", "{} is damaged or no checkpoint ({})", name, e.what());
  }
  const Metadata& metadata = c.file_->metadata();
  const auto envelope_text = metadata.find("nibble"), state_text = metadata.find("state");
  NIBBLE_CHECK(
      envelope_text != metadata.end() && state_text != metadata.end(), "checkpoint",
      "{} is a safetensors file without a nibble state; nibble import reads foreign weights", name);
  const nlohmann::json envelope = parse_json<nlohmann::json>(envelope_text->second);
  const bool whole = envelope.is_object() && envelope.contains("version") &&
                     envelope["version"].is_number_integer() && envelope.contains("xxh64") &&
                     envelope["xxh64"].is_string();
  NIBBLE_CHECK(whole, "checkpoint", "{}: damaged metadata", name);
  const auto version = envelope["version"].get<std::int64_t>();
  NIBBLE_CHECK(version >= 1, "checkpoint", "{}: damaged metadata", name);
  NIBBLE_CHECK(
      version <= kCheckpointVersion, "checkpoint",
      "{} was written by a newer version: got format {}, expected at most {}; update nibble", name,
      version, kCheckpointVersion);
  const std::string sum = checkpoint_checksum(state_text->second, *c.file_);
  const auto expected = envelope["xxh64"].get<std::string>();
  NIBBLE_CHECK(expected == sum, "checkpoint", "{} is corrupt: got checksum {}, expected {}", name,
               sum, expected);
  c.state_ = std::make_unique<nlohmann::json>(parse_json<nlohmann::json>(state_text->second));
  NIBBLE_CHECK(c.state_->is_object(), "checkpoint", "{}: damaged state", name);
  return c;
}

void Checkpoint::restore(NamedTensors tensors, bool exact) const {
  const std::string file = file_->path().string();
  std::set<std::string_view> wanted;
  for (auto& [name, tensor] : tensors) {
    const SafetensorsFile::Entry* e = file_->find(name);
    NIBBLE_CHECK(e, "checkpoint",
                 "{} holds no tensor '{}'; was it written with another configuration?", file, name);
    file_->read_into(*e, tensor);
    wanted.insert(name);
  }
  if (!exact) return;
  for (const SafetensorsFile::Entry& e : file_->entries())
    NIBBLE_CHECK(wanted.contains(e.name), "checkpoint",
                 "{} holds '{}', which this run does not have", file, e.name);
}

}  // namespace nibble
