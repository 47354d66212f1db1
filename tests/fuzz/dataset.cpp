// dataset.json, beside shards and a tokenizer that are intact: read, loaded from and written back.
#include <nlohmann/json.hpp>
#include <vector>

#include "data/dataset.h"
#include "data/loader.h"
#include "data/shard.h"
#include "tests/fuzz/target.h"

using namespace nibble;

namespace {

void read_some(const std::filesystem::path& folder, const Split& split, WindowOrder order) {
  TokenLoader loader(shard_paths(folder, split),
                     {.batch = 2, .length = 4, .vocab_size = 257, .order = order});
  for (int i = 0; i < 4 && !loader.done(); ++i) (void)loader.next();
}

}  // namespace

int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::filesystem::path folder =
      fuzz::file_of(fuzz::text(data, size), kDatasetFile).parent_path();
  for (const char* split : {"train", "val"}) {
    ShardWriter writer(folder, split, TokenWidth::U16, 64);
    writer.write(std::vector<std::int32_t>(32, 65));
    writer.finish();
  }
  return fuzz::run([&] {
    const Dataset dataset = read_dataset(folder);
    fuzz::run([&] { read_some(folder, dataset.train, WindowOrder::Shuffled); });
    fuzz::run([&] { read_some(folder, dataset.val, WindowOrder::Sequential); });
    // What was read writes back to the same.
    const std::filesystem::path out = folder / "out";
    std::filesystem::create_directories(out);
    write_dataset(out, dataset, ByteTokenizer());
    const Dataset again = read_dataset(out);
    if (content_hash(again) != content_hash(dataset) || again.vocab_size != dataset.vocab_size)
      std::abort();
  });
}
