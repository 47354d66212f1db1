// The batches that a training run or an evaluation reads, as raw numbers for another framework:
//   batch_dump DATA SPLIT OUT BATCH LENGTH STEPS SEED
// SPLIT is train (shuffled by SEED, STEPS batches) or val (in order, to its end). OUT holds, for
// each batch, inputs and then targets, int32[BATCH, LENGTH] each; -1 is no target.
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <string>

#include "data/dataset.h"
#include "data/loader.h"
#include "tensor/check.h"

namespace {

int dump(char** argv) {
  using namespace nibble;
  const std::filesystem::path folder = argv[1];
  const std::string split = argv[2];
  NIBBLE_CHECK(split == "train" || split == "val", "batch_dump",
               "split: got '{}', expected train or val", split);
  const Dataset dataset = read_dataset(folder);
  const bool train = split == "train";
  TokenLoader loader(shard_paths(folder, train ? dataset.train : dataset.val),
                     {.batch = std::atoll(argv[4]),
                      .length = std::atoll(argv[5]),
                      .vocab_size = dataset.vocab_size,
                      .order = train ? WindowOrder::Shuffled : WindowOrder::Sequential,
                      .seed = std::strtoull(argv[7], nullptr, 10)});
  std::ofstream out(argv[3], std::ios::binary);
  const auto write = [&](std::span<const std::int32_t> values) {
    out.write(reinterpret_cast<const char*>(values.data()),
              static_cast<std::streamsize>(values.size_bytes()));
  };
  for (long long step = std::atoll(argv[6]); train ? step > 0 : !loader.done(); --step) {
    const Batch& batch = loader.next();
    write(batch.inputs);
    write(batch.targets);
  }
  out.close();
  NIBBLE_CHECK(out, "batch_dump", "cannot write {}", argv[3]);
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 8) {
    std::fputs("usage: batch_dump DATA train|val OUT BATCH LENGTH STEPS SEED\n", stderr);
    return 2;
  }
  try {
    return dump(argv);
  } catch (const std::exception& e) {
    std::fprintf(stderr, "%s\n", e.what());
    return 1;
  }
}
