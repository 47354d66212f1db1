#include "optim/codec.h"

#include <map>
#include <mutex>

#include "quant/qtensor.h"

namespace nibble {
namespace {

class DenseCodec : public StateCodec {
 public:
  explicit DenseCodec(DType dtype) : dtype_(dtype) {}
  std::string name() const override { return std::string(to_string(dtype_)); }
  EncodedState make(std::int64_t rows, std::int64_t cols, Device device) const override {
    return {{{"value", Tensor::zeros({rows, cols}, dtype_, device)}}};
  }
  void decode(Tensor& x, const EncodedState& state) const override { x.copy_from(state["value"]); }
  void encode(EncodedState& state, const Tensor& x, const RngKey&) const override {
    state["value"].copy_from(x);
  }
  std::optional<Form> form() const override { return Form{}; }

 private:
  DType dtype_;
};

class QuantizedCodec : public StateCodec {
 public:
  explicit QuantizedCodec(const QuantSpec& spec) : spec_(spec) { spec_.validate(); }
  std::string name() const override { return to_string(spec_); }
  EncodedState make(std::int64_t rows, std::int64_t cols, Device device) const override {
    QTensor q = QTensor::empty(spec_, rows, cols, device);
    // The codes of zeros, so that a fresh state decodes to zeros in every format.
    quantize_into(q, Tensor::zeros({rows, cols}, DType::F32, device));
    EncodedState state{{{"codes", q.payload()}, {"scales", q.scales()}}};
    if (q.zeros().defined()) state.tensors.emplace_back("zeros", q.zeros());
    if (q.global_scale().defined()) state.tensors.emplace_back("global_scale", q.global_scale());
    return state;
  }
  void decode(Tensor& x, const EncodedState& state) const override {
    x.copy_from(dequantize(view(state, x.shape())));
  }
  void encode(EncodedState& state, const Tensor& x, const RngKey& key) const override {
    QTensor q = view(state, x.shape());
    quantize_into(q, x, key);
  }
  std::optional<Form> form() const override { return Form{spec_}; }

 private:
  QTensor view(const EncodedState& state, const Shape& shape) const {
    const auto optional = [&](std::string_view name) {
      for (const auto& [n, tensor] : state.tensors)
        if (n == name) return tensor;
      return Tensor();
    };
    return QTensor(state["codes"], state["scales"], optional("zeros"), optional("global_scale"),
                   spec_, shape);
  }
  QuantSpec spec_;
};

class SimulatedCodec : public StateCodec {
 public:
  explicit SimulatedCodec(const QuantSpec& spec) : spec_(spec) { spec_.validate(); }
  std::string name() const override { return fmt::format("sim({})", to_string(spec_)); }
  EncodedState make(std::int64_t rows, std::int64_t cols, Device device) const override {
    return {{{"value", Tensor::zeros({rows, cols}, DType::F32, device)}}};
  }
  void decode(Tensor& x, const EncodedState& state) const override {
    x.copy_from(fake_quantize(state["value"], spec_));
  }
  void encode(EncodedState& state, const Tensor& x, const RngKey&) const override {
    state["value"].copy_from(x);
  }

 private:
  QuantSpec spec_;
};

struct Registry {
  std::mutex mutex;
  std::map<std::string, CodecPtr, std::less<>> codecs;
};
Registry& registry() {
  static Registry r;
  return r;
}

}  // namespace

Tensor& EncodedState::operator[](std::string_view name) {
  for (auto& [n, tensor] : tensors)
    if (n == name) return tensor;
  fail("state", "no tensor '{}' in an encoded state", name);
}
const Tensor& EncodedState::operator[](std::string_view name) const {
  return const_cast<EncodedState&>(*this)[name];
}
std::int64_t EncodedState::bytes() const {
  std::int64_t total = 0;
  for (const auto& [name, tensor] : tensors) total += tensor.bytes();
  return total;
}

CodecPtr dense_codec(DType dtype) {
  NIBBLE_CHECK(dtype == DType::F32 || dtype == DType::BF16, "codec", "got {}, expected f32 or bf16",
               dtype);
  return std::make_shared<DenseCodec>(dtype);
}
CodecPtr quantized_codec(const QuantSpec& spec) { return std::make_shared<QuantizedCodec>(spec); }
CodecPtr simulated_codec(const QuantSpec& spec) { return std::make_shared<SimulatedCodec>(spec); }

void register_codec(CodecPtr codec) {
  const std::lock_guard lock(registry().mutex);
  registry().codecs[codec->name()] = std::move(codec);
}

CodecPtr find_codec(std::string_view name) {
  if (name.empty() || name == "f32") return dense_codec(DType::F32);
  if (name == "bf16") return dense_codec(DType::BF16);
  {
    const std::lock_guard lock(registry().mutex);
    if (const auto it = registry().codecs.find(name); it != registry().codecs.end())
      return it->second;
  }
  if (name.starts_with("sim(") && name.ends_with(")"))
    return simulated_codec(parse_spec(name.substr(4, name.size() - 5)));
  try {
    return quantized_codec(parse_spec(name));
  } catch (const Error& e) {
    fail("codec",
         "unknown: got '{}', expected f32, bf16, a spec such as dyn8:group256, sim(SPEC) or a "
         "registered name ({})",
         name, e.what());
  }
}

}  // namespace nibble
