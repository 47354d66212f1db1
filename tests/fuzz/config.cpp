// Configurations: a Jsonnet file to a TrainConfig, overrides, recipe texts, JSON as checkpoints
// hold it. The first byte says which.
#include "apps/config/jsonnet.h"
#include "apps/config/overrides.h"
#include "apps/train/train_config.h"
#include "quant/recipe.h"
#include "tensor/json_text.h"
#include "tests/fuzz/target.h"

using namespace nibble;

int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) return 0;
  const std::string text(fuzz::text(data + 1, size - 1));
  return fuzz::run([&] {
    Json config = {{"data", {{"path", "x"}}}, {"trainer", {{"steps", 3}}}};
    // Jsonnet takes a hundred times as long as the others: one value of the byte is enough.
    switch (data[0] == 0 ? 0 : 1 + (data[0] - 1) % 3) {
      case 0:
        // Jsonnet is a language: a file of its own making may compute for ever or import anything.
        if (text.find("import") != std::string::npos || text.find("std") != std::string::npos ||
            text.find("function") != std::string::npos || text.find("local") != std::string::npos)
          return;
        config = config::load({fuzz::file_of(text, "x.jsonnet")}, {}, {});
        break;
      case 1: config::apply_override(config, text); break;
      case 2: config["recipe"] = text; break;
      case 3: config = parse_json<Json>(text); break;
    }
    const train::TrainConfig read = train::read_config(config);
    // What was read writes back to the same.
    if (train::write_config(train::read_config(train::write_config(read))) !=
        train::write_config(read))
      std::abort();
  });
}
