// A GPU's memory as one growing range of addresses: pieces of physical memory are mapped behind
// each other (the driver's virtual memory management), so that what is free can always merge.
#pragma once

#include <memory>

#include "tensor/block_space.h"

namespace nibble::cuda {

// Of the device that is current when it is made.
std::unique_ptr<BlockSource> make_arena();

}  // namespace nibble::cuda
