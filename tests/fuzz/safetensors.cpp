#include "nn/safetensors.h"
#include "tests/fuzz/target.h"

using namespace nibble;

int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  return fuzz::run([&] {
    const SafetensorsFile file(fuzz::file_of(fuzz::text(data, size), "x.safetensors"));
    for (const SafetensorsFile::Entry& e : file.entries()) {
      if (file.find(e.name) == nullptr) std::abort();
      (void)file.read(e).numel();
    }
  });
}
