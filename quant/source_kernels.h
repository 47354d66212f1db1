// Kernel pairs that encode what a producer makes of its inputs (PairSource), each along one of the
// matrix's directions. The contracts of quant/kernels.h.
#pragma once

#include "quant/kernels.h"

namespace nibble {

// Whether quant_norm_rows serves: layer norms of up to 4096 columns, whole multiples of 8;
// integers, nearest, by reciprocal steps, one scale a row or 128 of its columns; inputs at
// multiples of 16 bytes. The same on every device.
bool has_norm_rows(const PairSource& source, const QuantSpec& spec);
// quant_row_runs of the layer norm that `source` stands for, which is not kept. Writes its mean,
// rstd and sum.
NIBBLE_KERNEL(quant_norm_rows, Tensor& codes, Tensor& scales, const PairSource& source,
              const QuantSpec& spec)

// Whether quant_source_columns serves: has_column_runs(spec) and x itself; or a layer norm or GELU
// with nearest codes and reciprocal steps, inputs at multiples of 16 bytes. The same on every
// device.
bool has_source_columns(const PairSource& source, const QuantSpec& spec);
// quant_column_runs of what `source` stands for, which is not kept: Plain, Gelu, or LayerNorm with
// the mean and rstd that layer_norm wrote, which are read (AddLayerNorm: give its sum as x).
NIBBLE_KERNEL(quant_source_columns, Tensor& codes, Tensor& scales, const PairSource& source,
              const QuantSpec& spec, const RngKey& key)

}  // namespace nibble
