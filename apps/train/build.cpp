#include "apps/train/build.h"

#include <set>

#include "optim/adam.h"

namespace nibble::train {
namespace {

struct AdamWConfig {
  double beta1 = 0.9, beta2 = 0.95, epsilon = 1e-8;
  std::string m, v;  // codecs; "": the recipe's
};
template <class V>
void visit(V& visitor, AdamWConfig& c) {
  visitor("beta1", c.beta1, config::half_open(0.0, 1.0));
  visitor("beta2", c.beta2, config::half_open(0.0, 1.0));
  visitor("epsilon", c.epsilon, config::above(0.0));
  visitor("m", c.m);
  visitor("v", c.v);
}

struct SgdConfig {
  double momentum = 0.9;
  bool nesterov = false;
  std::string m;
};
template <class V>
void visit(V& visitor, SgdConfig& c) {
  visitor("momentum", c.momentum, config::half_open(0.0, 1.0));
  visitor("nesterov", c.nesterov);
  visitor("m", c.m);
}

class LinearWeights : public Visitor {
 public:
  void parameter(std::string_view, Parameter&) override {}
  void module(std::string_view, Module& child) override {
    if (auto* layer = dynamic_cast<Linear*>(&child)) names.insert(layer->weight.name);
    child.visit(*this);
  }
  std::set<std::string> names;
};

}  // namespace

StateSlot OptimizerInputs::slot(const std::string& name, const std::string& own,
                                const std::string& from_recipe) const {
  StateSlot slot{.name = name};
  std::string word = own.empty() ? from_recipe : own;
  if (own.empty() && moments.simulated && !word.empty()) {
    word = fmt::format("sim({})", word);
    slot.min_elements = 0;
    slot.eligible = is_linear_weight;
  }
  slot.codec = find_codec(word);
  return slot;
}

OptimizerRegistry& optimizers() {
  static OptimizerRegistry* registry = [] {
    auto* r = new OptimizerRegistry("optimizer");
    r->add<AdamWConfig>("adamw", [](const AdamWConfig& c, const OptimizerInputs& in) {
      return std::make_unique<AdamW>(in.groups, AdamOptions{.beta1 = c.beta1,
                                                            .beta2 = c.beta2,
                                                            .epsilon = c.epsilon,
                                                            .m = in.slot("m", c.m, in.moments.m),
                                                            .v = in.slot("v", c.v, in.moments.v),
                                                            .seed = in.seed});
    });
    r->add<SgdConfig>("sgd", [](const SgdConfig& c, const OptimizerInputs& in) {
      return std::make_unique<Sgd>(in.groups, SgdOptions{.momentum = c.momentum,
                                                         .nesterov = c.nesterov,
                                                         .m = in.slot("m", c.m, in.moments.m),
                                                         .seed = in.seed});
    });
    return r;
  }();
  return *registry;
}

std::unique_ptr<LanguageModel> build_model(const TrainConfig& config, std::int64_t dataset_vocab,
                                           Device device) {
  const Recipe recipe = recipes::parse(config.recipe);
  const auto store = [kept = recipe.weights](Parameter& p) {
    if (p.shape().rank() < 2) return;  // biases and norms are small and touchy
    if (kept == WeightStorage::BF16) set_weight_storage(p, DType::BF16);
    if (kept == WeightStorage::Int8) set_weight_storage_int8(p);
  };
  return std::make_unique<Gpt2>(gpt2_of(config.model, dataset_vocab), recipe, config.trainer.seed,
                                device, store);
}

void allocate_gradients(const std::vector<Parameter*>& parameters) {
  for (Parameter* p : parameters)
    if (p->requires_grad) p->grad_buffer();
}

std::int64_t sequence_of(const TrainConfig& config, const LanguageModel& model) {
  const std::int64_t length = config.data.sequence ? config.data.sequence : model.context();
  NIBBLE_CHECK(length <= model.context(), "train",
               "data.sequence: got {} tokens, expected at most the context of {}", length,
               model.context());
  return length;
}

std::unique_ptr<Optimizer> build_optimizer(const TrainConfig& config, LanguageModel& model) {
  LinearWeights linear;
  model.visit(linear);
  OptimizerInputs in{
      .groups = {{.parameters = {}, .weight_decay = config.trainer.weight_decay}, {}},
      .moments = recipes::parse(config.recipe).moments,
      .is_linear_weight = [names =
                               linear.names](const Parameter& p) { return names.contains(p.name); },
      .seed = config.trainer.seed};
  for (Parameter* p : parameters(model))
    in.groups[model.decays(*p) ? 0 : 1].parameters.push_back(p);
  return optimizers().make(config.optimizer, in);
}

}  // namespace nibble::train
