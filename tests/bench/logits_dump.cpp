// The logits of a checkpoint, for a comparison with another framework:
//   logits_dump CHECKPOINT IDS BATCH LENGTH OUT.npy DEVICE
// IDS holds int32[BATCH, LENGTH] as raw bytes; OUT.npy gets f32[BATCH, LENGTH, vocabulary].
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

#include "apps/cli/loaded_model.h"
#include "models/gpt2.h"
#include "nn/npy.h"

namespace {

int dump(char** argv) {
  using namespace nibble;
  const Device device = std::string(argv[6]) == "cpu" ? kCpu : cuda_device();
  const cli::LoadedModel loaded = cli::LoadedModel::open(argv[1], device);
  auto* model = dynamic_cast<Gpt2*>(loaded.model.get());
  NIBBLE_CHECK(model, "logits_dump", "{} holds no GPT-2", argv[1]);
  const std::int64_t batch = std::atoll(argv[3]), length = std::atoll(argv[4]);
  std::vector<std::int32_t> ids(static_cast<std::size_t>(batch * length));
  std::FILE* file = std::fopen(argv[2], "rb");
  NIBBLE_CHECK(file, "logits_dump", "cannot read {}", argv[2]);
  const std::size_t read = std::fread(ids.data(), sizeof(ids[0]), ids.size(), file);
  std::fclose(file);
  NIBBLE_CHECK(read == ids.size(), "logits_dump", "{}: got {} ids, expected {}", argv[2], read,
               ids.size());
  write_npy(argv[5], model->logits(Tensor::from(ids, {batch, length}, device)));
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 7) {
    std::fputs("usage: logits_dump CHECKPOINT IDS BATCH LENGTH OUT.npy cpu|cuda\n", stderr);
    return 2;
  }
  try {
    return dump(argv);
  } catch (const std::exception& e) {
    std::fprintf(stderr, "%s\n", e.what());
    return 1;
  }
}
