// Config files: Jsonnet to JSON to a TrainConfig. A target of its own, since libjsonnet takes a
// hundred times as long as the rest.
#include "apps/config/jsonnet.h"

#include "apps/train/train_config.h"
#include "tests/fuzz/target.h"

using namespace nibble;

int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view text = fuzz::text(data, size);
  // Jsonnet is a language: a file of its own making may compute for ever or import anything.
  for (const char* word : {"import", "std", "function", "local"})
    if (text.find(word) != std::string_view::npos) return 0;
  return fuzz::run(
      [&] { (void)train::read_config(config::load({fuzz::file_of(text, "x.jsonnet")}, {}, {})); });
}
