#include "quant/pair_twin.h"

namespace nibble::cuda {

void quant_pair(Tensor& row_codes, Tensor& row_scales, Tensor& column_codes, Tensor& column_scales,
                Tensor& value, Tensor& column_sums, const PairSource& source,
                const QuantSpec& by_row, const QuantSpec& by_column, const RngKey& key) {
  pair_twin(row_codes, row_scales, column_codes, column_scales, value, column_sums, source, by_row,
            by_column, key);
}

}  // namespace nibble::cuda
