// Recipes and quantizers by name: what the text form is written in.
#pragma once

#include "quant/recipe.h"

namespace nibble::recipes {

std::vector<Recipe> speed_presets();  // presets.cpp
std::vector<Recipe> study_presets();  // study_presets.cpp

// By name or alias; null when there is none.
std::shared_ptr<const Recipe> find_recipe(std::string_view name);
std::shared_ptr<const CustomQuantizer> find_quantizer(std::string_view name);
// Names and aliases.
std::vector<std::string> known_words();

}  // namespace nibble::recipes
