// The nibble program with a quantizer, a moment format, an optimizer and a recipe of one's own:
//   my_nibble train --config tiny_int8.jsonnet --set data.path=TOKENS --output OUT
//     --set recipe=my_ternary --set optimizer.type=lion --set optimizer.m=log8 --set
//     trainer.lr=3e-4
#include "apps/cli/cli.h"
#include "lion.h"
#include "log8.h"
#include "ternary.h"

int main(int argc, char** argv) {
  const auto ternary = std::make_shared<Ternary>();
  nibble::Recipe recipe;  // what "none,fprop.rhs=ternary" says
  recipe.name = "my_ternary";
  recipe.linear.name = "my_ternary";
  recipe.linear.fprop.rhs.custom = ternary;

  nibble::cli::Extensions extensions;
  extensions.quantizers = {ternary};
  extensions.codecs = {std::make_shared<Log8>()};
  extensions.optimizers = [](nibble::train::OptimizerRegistry& registry) {
    registry.add<LionConfig>(
        "lion", [](const LionConfig& config, const nibble::train::OptimizerInputs& in) {
          return std::make_unique<Lion>(config, in);
        });
  };
  extensions.recipes = {{"my_ternary", recipe}};
  return nibble::cli::run(argc, argv, extensions);
}
