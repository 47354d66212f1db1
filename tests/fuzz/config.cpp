// Configurations as JSON: overrides, recipe texts, whole ones as checkpoints hold them. The first
// byte says which.
#include "apps/config/overrides.h"
#include "apps/train/train_config.h"
#include "tensor/json_text.h"
#include "tests/fuzz/target.h"

using namespace nibble;

int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) return 0;
  const std::string text(fuzz::text(data + 1, size - 1));
  return fuzz::run([&] {
    Json config = {{"data", {{"path", "x"}}}, {"trainer", {{"steps", 3}}}};
    switch (data[0] % 3) {
      case 0: config = parse_json<Json>(text); break;
      case 1: config::apply_override(config, text); break;
      case 2: config["recipe"] = text; break;
    }
    const train::TrainConfig read = train::read_config(config);
    // What was read writes back to the same.
    if (train::write_config(train::read_config(train::write_config(read))) !=
        train::write_config(read))
      std::abort();
  });
}
