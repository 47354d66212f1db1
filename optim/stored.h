// Which parameters an update of all of them at once takes as they are stored (adam_stored).
#pragma once

#include <string>

#include "optim/kernels.h"

namespace nibble {

// Why the kernel doesn't take it, in a few words; "" when it does. Both devices answer alike.
std::string stored_update_refusal(const StoredUpdate& update);

}  // namespace nibble
