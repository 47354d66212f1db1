// The tensors of a checkpoint that are codes: moments by their optimizer's codecs, weights by the
// recipe. Its configuration says which they are, and the code that trains decodes them.
#pragma once

#include <functional>
#include <map>
#include <optional>
#include <string>

#include "apps/config/json.h"
#include "nn/safetensors.h"

namespace nibble::cli {

class EncodedTensors {
 public:
  EncodedTensors() = default;  // none
  // None too where this program cannot read the configuration, e.g. for lack of an extension. The
  // file must outlive the result.
  static EncodedTensors of(const SafetensorsFile& file, const Json& state);

  struct Decoded {
    std::string form;  // "dyn8:group256"
    Tensor values;     // F32, contiguous
  };
  // What the codes called `name` stand for; nothing for any other tensor, also the scales.
  std::optional<Decoded> decode(const std::string& name) const;

 private:
  std::map<std::string, std::function<Decoded()>> codes_;
};

}  // namespace nibble::cli
