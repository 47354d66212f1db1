#pragma once

#include "gemm.h"

namespace nibble::spike {

/// Compares every kernel with CPU references at small sizes; prints one line a check and returns
/// the number of failures.
int run_checks(GemmLibrary& gemm);

}  // namespace nibble::spike
