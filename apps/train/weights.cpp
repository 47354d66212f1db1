#include "apps/train/weights.h"

#include <utility>

#include "apps/train/build.h"
#include "optim/optimizer.h"

namespace nibble::train {
namespace {

std::string codes_of(const Parameter& p) { return p.name + "/codes"; }

void append(NamedTensors& all, Parameter& p) {
  if (!p.is_quantized()) {
    all.emplace_back(p.name, p.storage());
    return;
  }
  all.emplace_back(codes_of(p), p.quantized().payload());
  all.emplace_back(p.name + "/scales", p.quantized().scales());
}

}  // namespace

NamedTensors weight_tensors(Module& model) {
  NamedTensors all;
  for (Parameter* p : parameters(model)) append(all, *p);
  return all;
}

std::int64_t state_number(const Json& state, const char* key) {
  const auto at = state.find(key);
  return at != state.end() && at->is_number_integer() ? at->get<std::int64_t>() : 0;
}

void check_weights(const TrainConfig& config, std::int64_t vocab, const SafetensorsFile& weights) {
  const std::string file = weights.path().string();
  const std::size_t stored = weights.entries().size();
  const std::int64_t layers = gpt2_of(config.model, vocab).layers;
  NIBBLE_CHECK(std::cmp_less_equal(layers, stored), "checkpoint",
               "{}: model.layers: got {}, while there are {} tensors in all", file, layers, stored);
  // On the Meta device a model is its names and shapes.
  const auto model = build_model(config, vocab, kMeta);
  for (const Parameter* p : parameters(*model)) {
    const SafetensorsFile::Entry* e = weights.find(p->name);
    if (e == nullptr) e = weights.find(codes_of(*p));
    NIBBLE_CHECK(e, "checkpoint",
                 "{} holds no tensor '{}'; was it written with another configuration?", file,
                 p->name);
    NIBBLE_CHECK(e->shape == p->shape(), "checkpoint", "{}: '{}' has shape {}, expected {}", file,
                 e->name, e->shape, p->shape());
  }
}

void load_weights(Module& model, const Checkpoint& checkpoint) {
  for (Parameter* p : parameters(model)) {
    const bool coded = checkpoint.file().find(codes_of(*p)), wanted = p->is_quantized();
    const DType dtype = wanted ? DType::F32 : p->storage().dtype();
    if (coded != wanted) {
      p->set_value(Tensor::zeros(p->shape(), DType::F32, p->device()));
      if (coded) set_weight_storage_int8(*p);
    }
    NamedTensors tensors;
    append(tensors, *p);
    checkpoint.restore(std::move(tensors), false);
    p->bump_version();
    if (wanted)
      set_weight_storage_int8(*p);
    else
      set_weight_storage(*p, dtype);
  }
}

}  // namespace nibble::train
