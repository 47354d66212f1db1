#include "apps/train/weights.h"

namespace nibble::train {

NamedTensors weight_tensors(Module& model) {
  NamedTensors all;
  for (Parameter* p : parameters(model)) {
    if (p->is_quantized()) {
      all.emplace_back(p->name + "/codes", p->quantized().payload());
      all.emplace_back(p->name + "/scales", p->quantized().scales());
    } else {
      all.emplace_back(p->name, p->storage());
    }
  }
  return all;
}

}  // namespace nibble::train
