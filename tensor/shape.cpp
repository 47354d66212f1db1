#include "tensor/shape.h"

#include <algorithm>

namespace nibble {

std::string to_string(const Shape& shape) { return fmt::format("[{}]", fmt::join(shape, ", ")); }

Shape broadcast_shapes(std::string_view op, const Shape& a, const Shape& b) {
  const int rank = std::max(a.rank(), b.rank());
  Shape out;
  for (int i = 0; i < rank; ++i) {
    const int ia = i - (rank - a.rank()), ib = i - (rank - b.rank());
    const std::int64_t da = ia < 0 ? 1 : a[ia], db = ib < 0 ? 1 : b[ib];
    NIBBLE_CHECK(da == db || da == 1 || db == 1, op, "shapes do not broadcast: got {} and {}", a,
                 b);
    out.push_back(da == 1 ? db : da);
  }
  return out;
}

}  // namespace nibble
