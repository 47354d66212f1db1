#include "apps/cli/inspect_encoded.h"

#include <utility>

#include "apps/train/build.h"
#include "apps/train/trainer.h"
#include "apps/train/weights.h"

namespace nibble::cli {
namespace {

// From the file into `tensor`; false when it lacks it or has another one by that name.
bool read(const SafetensorsFile& file, const std::string& name, Tensor& tensor) {
  const SafetensorsFile::Entry* e = file.find(name);
  if (!e) return false;
  try {
    file.read_into(*e, tensor);
  } catch (const Error&) {
    return false;
  }
  return true;
}

EncodedTensors::Decoded decode_state(const SafetensorsFile& file, const Optimizer::State& s) {
  EncodedState state = s.codec->make(s.rows, s.cols, kCpu);
  for (auto& [part, tensor] : state.tensors)
    if (!read(file, s.name + "." + part, tensor)) return {};
  EncodedTensors::Decoded out{s.codec->name(), Tensor::empty({s.rows, s.cols})};
  s.codec->decode(out.values, state);
  return out;
}

EncodedTensors::Decoded decode_weight(const SafetensorsFile& file, const std::string& name,
                                      const QuantSpec& spec, const Shape& shape) {
  const QTensor q = QTensor::empty(spec, shape[0], shape[1], kCpu);
  Tensor codes = q.payload(), scales = q.scales();
  if (!read(file, name + "/codes", codes) || !read(file, name + "/scales", scales)) return {};
  return {to_string(spec), dequantize(q)};
}

}  // namespace

EncodedTensors EncodedTensors::of(const SafetensorsFile& file, const Json& state) {
  EncodedTensors found;
  std::unique_ptr<LanguageModel> model;
  std::unique_ptr<Optimizer> optimizer;
  try {
    const train::TrainConfig config = train::config_of(state);
    const std::int64_t vocab = train::state_number(state, "vocab");
    train::check_weights(config, vocab, file);
    model = train::build_model(config, vocab, kMeta);
    optimizer = train::build_optimizer(config, *model);
  } catch (const std::exception&) {
    return found;
  }
  for (const Optimizer::State& s : optimizer->states()) {
    const EncodedState parts = s.codec->make(s.rows, s.cols, kMeta);
    if (parts.tensors.size() < 2) continue;  // a value as it is
    found.codes_[s.name + "." + parts.tensors.front().first] = [&file, s] {
      return decode_state(file, s);
    };
  }
  for (Parameter* p : parameters(*model))
    if (p->is_quantized())
      found.codes_[p->name + "/codes"] = [&file, name = p->name, spec = p->quantized().spec(),
                                          shape = p->shape()] {
        return decode_weight(file, name, spec, shape);
      };
  return found;
}

std::optional<EncodedTensors::Decoded> EncodedTensors::decode(const std::string& name) const {
  const auto found = codes_.find(name);
  if (found == codes_.end()) return std::nullopt;
  Decoded decoded = found->second();
  if (!decoded.values.defined()) return std::nullopt;
  return decoded;
}

}  // namespace nibble::cli
