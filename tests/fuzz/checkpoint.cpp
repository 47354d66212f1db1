// Checkpoints: opened, listed, restored, and built into the model that their state describes.
#include <nlohmann/json.hpp>
#include <vector>

#include "apps/cli/inspect.h"
#include "apps/cli/loaded_model.h"
#include "tests/fuzz/mend.h"

using namespace nibble;

int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::filesystem::path path = fuzz::file_of(fuzz::text(data, size), "step-1.safetensors");
  (void)cli::scan_file(path);
  fuzz::run([&] {
    const Checkpoint checkpoint = Checkpoint::open(path);
    (void)checkpoint.state().dump();
    NamedTensors tensors;
    for (const auto& e : checkpoint.file().entries())
      tensors.emplace_back(e.name, Tensor::zeros(e.shape, e.dtype));
    checkpoint.restore(tensors, true);
  });
  return fuzz::run([&] { (void)cli::LoadedModel::open(path, kCpu); });
}

#ifdef NIBBLE_FUZZ
extern "C" std::size_t LLVMFuzzerMutate(std::uint8_t* data, std::size_t size, std::size_t max_size);

namespace {

std::string mutated(const std::string& bytes, std::size_t max_size) {
  std::vector<std::uint8_t> buffer(bytes.begin(), bytes.end());
  buffer.resize(std::max<std::size_t>(max_size, 1));
  const std::size_t size = LLVMFuzzerMutate(buffer.data(), std::min(bytes.size(), max_size),
                                            std::max<std::size_t>(max_size, 1));
  return {buffer.begin(), buffer.begin() + static_cast<std::ptrdiff_t>(size)};
}

// One leaf of the state becomes a value that a reader may not expect.
void disturb(nlohmann::json& state, unsigned seed) {
  static const std::vector<nlohmann::json> values{0,
                                                  1,
                                                  -1,
                                                  2,
                                                  1 << 20,
                                                  INT64_MAX,
                                                  INT64_MIN,
                                                  UINT64_MAX,
                                                  0.5,
                                                  1e300,
                                                  -1e-300,
                                                  true,
                                                  false,
                                                  nullptr,
                                                  "",
                                                  "int8",
                                                  "none",
                                                  "bf16",
                                                  "w8a8g8",
                                                  "a\nb",
                                                  std::string(300, 'x'),
                                                  nlohmann::json::array(),
                                                  nlohmann::json::object()};
  const nlohmann::json flat = state.flatten();
  if (flat.empty()) return;
  auto leaf = flat.begin();
  std::advance(leaf, seed % flat.size());
  state[nlohmann::json::json_pointer(leaf.key())] = values[seed / 256 % values.size()];
}

// The state, by a typed change of a leaf or by bytes.
void mutate_state(fuzz::SafetensorsParts& parts, unsigned seed, std::size_t max_size) {
  const auto place = fuzz::metadata_text(parts.header, "state");
  if (!place) return;
  const auto [begin, end] = *place;
  const nlohmann::json literal = nlohmann::json::parse(
      "\"" + parts.header.substr(begin, end - begin) + "\"", nullptr, /*allow_exceptions=*/false);
  if (!literal.is_string()) return;
  std::string text = literal.get<std::string>();
  nlohmann::json state = nlohmann::json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (state.is_object() && seed % 4 != 0) {
    disturb(state, seed / 4);
    text = state.dump();
  } else {
    text = mutated(text, max_size);
  }
  const std::string quoted =
      nlohmann::json(text).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
  parts.header.replace(begin, end - begin, quoted.substr(1, quoted.size() - 2));
}

}  // namespace

extern "C" std::size_t LLVMFuzzerCustomMutator(std::uint8_t* data, std::size_t size,
                                               std::size_t max_size, unsigned seed) {
  std::optional<fuzz::SafetensorsParts> parts = fuzz::SafetensorsParts::of(fuzz::text(data, size));
  if (!parts || seed % 8 == 0) return LLVMFuzzerMutate(data, size, max_size);
  const std::size_t others = sizeof(std::uint64_t) + parts->header.size() + parts->data.size();
  const std::size_t room = max_size - std::min(max_size, others);
  if (seed % 8 <= 2)
    parts->header = mutated(parts->header, parts->header.size() + room);
  else if (seed % 8 <= 3)
    parts->data = mutated(parts->data, parts->data.size() + room);
  else
    mutate_state(*parts, seed / 8, room + 4096);
  const std::string bytes = fuzz::mended(parts->whole());
  if (bytes.size() > max_size) return LLVMFuzzerMutate(data, size, max_size);
  std::memcpy(data, bytes.data(), bytes.size());
  return bytes.size();
}
#endif
