#include "optim/kernels.h"

namespace nibble::cpu {

void recode(std::vector<Recoded>& all) {
  for (Recoded& r : all) {
    if (!r.transposed) {
      quantize_into(r.codes, r.x);
      continue;
    }
    const QTensor fresh = quantize(r.x, r.codes.spec(), {}, true);
    r.codes.payload().copy_from(fresh.payload());
    r.codes.scales().copy_from(fresh.scales());
  }
}

void cast_all(std::vector<Tensor>& to, const std::vector<Tensor>& from) {
  for (std::size_t i = 0; i < to.size(); ++i) to[i].copy_from(from[i]);
}

}  // namespace nibble::cpu
