#include <nlohmann/json.hpp>

#include "nn/checkpoint_file.h"
#include "tests/fuzz/target.h"

using namespace nibble;

int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  return fuzz::run([&] {
    const Checkpoint checkpoint =
        Checkpoint::open(fuzz::file_of(fuzz::text(data, size), "step-1.safetensors"));
    (void)checkpoint.state().dump();
    NamedTensors tensors;
    for (const auto& e : checkpoint.file().entries())
      tensors.emplace_back(e.name, Tensor::zeros(e.shape, e.dtype));
    checkpoint.restore(tensors, true);
  });
}
