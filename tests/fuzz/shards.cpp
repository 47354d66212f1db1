// Token files: Nibble's and llm.c's (they share a form) and bare ones, read and imported.
#include <vector>

#include "data/import_shards.h"
#include "data/shard.h"
#include "tests/fuzz/target.h"

using namespace nibble;

int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) return 0;
  const std::string_view bytes = fuzz::text(data + 1, size - 1);
  fuzz::run([&] {
    const Shard shard(fuzz::file_of(bytes, "x.bin"));
    std::vector<std::int32_t> tokens(static_cast<std::size_t>(shard.size()));
    shard.read(0, tokens);
  });
  return fuzz::run([&] {
    TokenizeOptions options;
    options.inputs = {fuzz::file_of(bytes, "x.bin")};
    options.output = options.inputs.front().parent_path() / "out";
    import_shards(UnknownTokenizer(1 + data[0] * 300),
                  data[0] % 2 ? ShardForm::LlmC : ShardForm::NanoGpt, options);
  });
}
