#include "apps/profile/kernel_classes.h"

#include <fnmatch.h>

#include <array>

namespace nibble::profile {
namespace {

using enum KernelClass;

// The first rule that fits: a pattern of the function's name, and one of all of the name.
struct Rule {
  const char* function;
  const char* whole;
  KernelClass of;
};
constexpr Rule kRules[] = {
    // Libraries.
    {"*", "*cudnn*", Attention},
    {"*nvjet*", "*_qq*", Fp8Product},
    {"*nvjet*", "*", FloatProduct},
    {"*", "*xmma_gemm*e4m3*", Fp8Product},
    {"*", "*xmma_gemm*", FloatProduct},
    {"*splitKreduce*", "*", FloatProduct},
    {"*", "*cutlass*gemm*", FloatProduct},
    {"*gemv*", "*", FloatProduct},
    // Products, with what prepares and scales them.
    {"whole_kernel", "*", IntProduct},
    {"resident_kernel", "*RowTile*", CrossEntropy},
    {"resident_kernel", "*", IntProduct},
    {"grouped_kernel", "*", IntProduct},
    {"tiles_kernel", "*", IntProduct},
    {"general_kernel", "*", IntProduct},
    {"sum_rows_kernel", "*", IntProduct},
    {"scale_sums_kernel", "*", IntProduct},
    {"pad_codes_kernel", "*", IntProduct},
    {"rescale_kernel", "*", Fp8Product},
    {"matmul_kernel", "*", FloatProduct},
    // Attention.
    {"attention_*", "*", Attention},
    {"key_gradients", "*", Attention},
    {"query_gradients", "*", Attention},
    {"row_stats", "*", Attention},
    // Codes and scales, with the norm or activation that some are encoded from.
    {"pair_kernel", "*", Encode},
    {"norm_rows_kernel", "*", Encode},
    {"codes_kernel", "*", Encode},
    {"facts_kernel", "*", Encode},
    {"recode_kernel", "*", Encode},
    {"*_runs_kernel", "*", Encode},
    {"square_tiles_kernel", "*", Encode},
    {"code_kernel", "*", Encode},
    {"decode_kernel", "*", Encode},
    {"transpose_codes_kernel", "*", Encode},
    {"pack_*", "*", Encode},
    {"unpack_*", "*", Encode},
    {"delayed_range_kernel", "*", Encode},
    {"tracked_kernel", "*", Encode},
    {"settle_kernel", "*", Encode},
    {"advance_kernel", "*", Encode},
    {"finish_kernel", "*", Encode},
    {"groups_kernel", "*", Encode},
    {"columns_kernel", "*", Encode},
    {"parts_kernel", "*", Encode},
    {"most_kernel", "*", Encode},
    {"scales_kernel", "*", Encode},
    {"steps_kernel", "*", Encode},
    {"row_sums_kernel", "*", Encode},
    {"segment_sums_kernel", "*", Encode},
    // Norms; the fold of their parameters' gradients too.
    {"forward_kernel", "*", Norm},
    {"summed_kernel", "*", Norm},
    {"backward_kernel", "*", Norm},
    {"long_gradient_kernel", "*", Norm},
    {"long_lines_kernel", "*", Norm},
    {"fold_*", "*AddToGradients*", Norm},
    // Maps by what they map with.
    {"*_kernel", "*gelu_*_of*", Activation},
    {"gelu_*_kernel", "*", Activation},
    {"*_kernel", "*silu*_of*", Activation},
    {"*_kernel", "*relu_of*", Activation},
    {"*_kernel", "*sigmoid_of*", Activation},
    {"*_kernel", "*tanh_of*", Activation},
    {"map_kernel", "*", Elementwise},
    {"strided_kernel", "*", Elementwise},
    {"convert_kernel", "*", Elementwise},
    {"cast_kernel", "*", Elementwise},
    {"transpose_kernel", "*", Elementwise},
    {"draw_kernel", "*", Elementwise},
    {"dropout_kernel", "*", Elementwise},
    {"add_bias_kernel", "*", Elementwise},
    {"copy*", "*", Elementwise},
    {"fill*", "*", Elementwise},
    // Losses.
    {"update_kernel", "*", CrossEntropy},
    {"gradient_kernel", "*", CrossEntropy},
    {"check_targets_kernel", "*", CrossEntropy},
    {"gather_kernel", "*", CrossEntropy},
    {"add_kernel", "*WeightedRows*", CrossEntropy},
    {"zero_kernel", "*", CrossEntropy},
    {"softmax_*", "*", CrossEntropy},
    // Rows by their index, with the sort that adds them up in order.
    {"select_kernel", "*", Embedding},
    {"check_kernel", "*", Embedding},
    {"add_kernel", "*", Embedding},
    {"take_*", "*", Embedding},
    {"*_digits", "*", Embedding},
    // Sums and extremes.
    {"fold_*", "*", Reduction},
    {"sum_band_kernel", "*", Reduction},
    {"all_finite_kernel", "*", Reduction},
    {"argmax_kernel", "*", Reduction},
    {"scan_*", "*", Reduction},
    // The update with its norm and scalars.
    {"pieces_kernel", "*", Optimizer},
    {"tensors_kernel", "*", Optimizer},
    {"total_kernel", "*", Optimizer},
    {"loss_kernel", "*", Optimizer},
    {"clip_kernel", "*", Optimizer},
    {"clip_each_kernel", "*", Optimizer},
    {"rows_kernel", "*", Optimizer},
    {"count_kernel", "*", Optimizer},
    {"corrections_kernel", "*", Optimizer},
    {"stored_kernel", "*", Optimizer},
    {"adam_kernel", "*", Optimizer},
    {"sgd_kernel", "*", Optimizer},
    {"stochastic_kernel", "*", Optimizer},
    {"set_condition", "*", Optimizer},
};

constexpr std::array<const char*, kKernelClasses> kNames{"int8 products",
                                                         "fp8 products",
                                                         "float products",
                                                         "attention",
                                                         "encode, decode",
                                                         "norms",
                                                         "activations",
                                                         "softmax, cross-entropy",
                                                         "embedding, rows",
                                                         "elementwise, copy",
                                                         "reductions",
                                                         "optimizer",
                                                         "other"};

void erase_all(std::string& text, std::string_view part) {
  for (std::size_t at = 0; (at = text.find(part, at)) != std::string::npos;)
    text.erase(at, part.size());
}

bool fits(const char* pattern, const std::string& text) {
  return fnmatch(pattern, text.c_str(), 0) == 0;
}

}  // namespace

const char* class_name(KernelClass of) { return kNames[static_cast<std::size_t>(of)]; }

std::string function_of(std::string_view demangled) {
  std::string text(demangled);
  erase_all(text, "(anonymous namespace)::");
  text = text.substr(0, text.find_first_of("<("));
  if (const auto at = text.rfind("::"); at != std::string::npos) return text.substr(at + 2);
  // A return type stands before a template's name; "copy on the device" is none.
  return text.starts_with("void ") ? text.substr(5) : text;
}

KernelClass classify(std::string_view demangled) {
  const std::string function = function_of(demangled), whole(demangled);
  for (const Rule& rule : kRules)
    if (fits(rule.function, function) && fits(rule.whole, whole)) return rule.of;
  return Other;
}

std::string short_name(std::string_view demangled) {
  std::string text(demangled);
  for (const char* part :
       {"(anonymous namespace)::", "nibble::cuda::", "nibble::", "unsigned ", "std::"})
    erase_all(text, part);
  if (text.starts_with("void ")) text.erase(0, 5);
  // Up to the parameters: the first parenthesis outside of angle brackets.
  int depth = 0;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '<') ++depth;
    if (text[i] == '>') --depth;
    if (text[i] != '(' || depth > 0) continue;
    text.resize(i);
    break;
  }
  constexpr std::size_t kMost = 100;
  if (text.size() > kMost) text.replace(kMost - 3, std::string::npos, "...");
  return text;
}

}  // namespace nibble::profile
