// nibble inspect FILE --dump: a tensor of it as .npy. Memory is that of one tensor; what its codes
// mean is asked of the model and the optimizer that the checkpoint's configuration builds on Meta.
#include <fmt/format.h>

#include <algorithm>
#include <memory>
#include <optional>

#include "apps/cli/inspect.h"
#include "apps/config/nearest.h"
#include "apps/train/build.h"
#include "apps/train/trainer.h"
#include "apps/train/weights.h"
#include "nn/checkpoint_file.h"
#include "nn/npy.h"

namespace nibble::cli {
namespace {

constexpr const char* kOp = "inspect";

Shape matrix_of(const Shape& s) {
  if (s.rank() < 2) return {1, s.numel()};
  return {s.numel() / s[-1], s[-1]};
}

class Source {
 public:
  explicit Source(const std::filesystem::path& path) {
    if (SafetensorsFile(path).metadata().contains("nibble"))
      checkpoint_.emplace(Checkpoint::open(path));
    else
      plain_ = std::make_unique<SafetensorsFile>(path);
  }
  const SafetensorsFile& file() const { return checkpoint_ ? checkpoint_->file() : *plain_; }

  Tensor find(const std::string& name) {
    const SafetensorsFile::Entry* stored = file().find(name);
    const bool codes = name.ends_with(".codes");  // as stored, packed ones have lost their shape
    if (stored && !(codes && checkpoint_)) return file().read(*stored);
    if (checkpoint_) {
      if (!stored && file().find(name + "/codes")) return parameter(name);
      const std::size_t slash = name.rfind('/');
      if (slash != std::string::npos)
        if (Tensor t = state(name.substr(0, slash), name.substr(slash + 1)); t.defined()) return t;
      if (stored) return file().read(*stored);
    }
    fail(kOp, "--dump: got {}, expected the name of a tensor in {}; the nearest are {}", name,
         file().path().string(), config::nearest_few(name, names()));
  }

 private:
  // Those that are stored, and those that these encode.
  std::vector<std::string> names() const {
    std::vector<std::string> all;
    const auto add = [&](std::string name) {
      if (std::ranges::find(all, name) == all.end()) all.push_back(std::move(name));
    };
    for (const auto& e : file().entries()) {
      add(e.name);
      if (!checkpoint_) continue;
      if (e.name.ends_with("/codes")) add(e.name.substr(0, e.name.size() - 6));
      const std::size_t slash = e.name.rfind('/'), dot = e.name.rfind('.');
      if (slash != std::string::npos && dot != std::string::npos && dot > slash)
        add(e.name.substr(0, dot));
    }
    return all;
  }

  Parameter* described(const std::string& name) {
    if (!model_) {
      const Json state = checkpoint_->state();
      const train::TrainConfig config = train::config_of(state);
      const std::int64_t vocab = train::state_number(state, "vocab");
      train::check_weights(config, vocab, checkpoint_->file());
      model_ = train::build_model(config, vocab, kMeta);
      optimizer_ = train::build_optimizer(config, *model_);
    }
    for (Parameter* p : parameters(*model_))
      if (p->name == name) return p;
    return nullptr;
  }

  // A weight that is stored as codes.
  Tensor parameter(const std::string& name) {
    Parameter* p = described(name);
    NIBBLE_CHECK(p && p->is_quantized(), kOp,
                 "{} is stored as codes, which the checkpoint's configuration does not explain; "
                 "expected --dump {}/codes",
                 name, name);
    const QuantSpec& spec = p->quantized().spec();
    QTensor q = QTensor::empty(spec, p->shape()[0], p->shape()[1]);
    checkpoint_->restore({{name + "/codes", q.payload()}, {name + "/scales", q.scales()}}, false);
    return dequantize(q);
  }

  // `what`: a slot, decoded, or a part of it, "m.codes". Undefined: there is none of that name.
  Tensor state(const std::string& owner, const std::string& what) {
    Parameter* p = described(owner);
    if (!p) return {};
    const std::string slot = what.substr(0, what.find('.'));
    const auto& slots = optimizer_->slots();
    const auto at = std::ranges::find(slots, slot, &StateSlot::name);
    if (at == slots.end()) return {};
    const CodecPtr codec =
        find_codec(optimizer_->codec_name(*p, static_cast<std::size_t>(at - slots.begin())));
    Tensor x = Tensor::empty(matrix_of(p->shape()));
    EncodedState encoded = codec->make(x.size(0), x.size(1), kCpu);
    NamedTensors tensors;
    for (const auto& [part, tensor] : encoded.tensors)
      tensors.emplace_back(fmt::format("{}/{}.{}", owner, slot, part), tensor);
    checkpoint_->restore(tensors, false);
    for (const auto& [part, tensor] : encoded.tensors)
      if (what == fmt::format("{}.{}", slot, part)) return tensor;
    if (what != slot) return {};
    codec->decode(x, encoded);
    return x.view(p->shape());
  }

  std::optional<Checkpoint> checkpoint_;
  std::unique_ptr<SafetensorsFile> plain_;
  std::unique_ptr<LanguageModel> model_;  // on Meta, like the optimizer
  std::unique_ptr<Optimizer> optimizer_;
};

}  // namespace

int dump_tensors(const std::filesystem::path& path,
                 const std::vector<std::pair<std::string, std::string>>& dumps) {
  Source source(path);
  // A file that was forgotten must not cost the one that is there instead.
  for (const auto& [name, file] : dumps)
    NIBBLE_CHECK(std::filesystem::path(file).extension() == ".npy", kOp,
                 "--dump {}: got the file {}, expected a name that ends in .npy", name, file);
  for (const auto& [name, file] : dumps) {
    const Tensor tensor = source.find(name);
    write_npy(file, tensor);
    fmt::print("{}: {}, {} {}\n", file, name, tensor.dtype(), tensor.shape());
  }
  return 0;
}

}  // namespace nibble::cli
