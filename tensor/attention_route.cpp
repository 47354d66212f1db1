#include "tensor/attention_route.h"

#include <fmt/format.h>

namespace nibble {

AttentionProblem::AttentionProblem(const Tensor& q, const Tensor& k, const AttentionOptions& o)
    : dtype(q.dtype()),
      batch(q.size(0)),
      queries(q.size(1)),
      keys(k.size(1)),
      heads(q.size(2)),
      key_heads(k.size(2)),
      width(q.size(3)),
      causal(o.causal),
      dropout(o.dropout) {}

// The deterministic backward keeps all of dP, in bf16 and in multiples of 64 queries by 128 keys,
// on this generation of GPUs: past a bound our own kernels serve, which need O(T).
std::string_view cudnn_attention_refusal(const AttentionProblem& p, AttentionPass pass) {
#ifndef NIBBLE_HAS_CUDNN
  (void)p, (void)pass;
  return "cuDNN attention is not in this build";
#else
  constexpr std::int64_t kMaxGradientBytes = std::int64_t{2} << 30;
  if (p.dtype != DType::BF16) return "cuDNN serves bf16 only";
  if (p.dropout != 0) return "cuDNN draws dropout of its own";
  if (p.batch == 0 || p.heads == 0 || p.queries == 0 || p.keys == 0) return "it is empty";
  if (p.width % 8 != 0 || p.width > 128)
    return "cuDNN serves heads of up to 128, in multiples of 8";
  if (!p.aligned) return "rows do not start at multiples of 16 bytes";
  // Whole tiles only: generation would otherwise build a graph for every length that it passes.
  if (p.queries % 64 != 0 || p.keys % 128 != 0)
    return "cuDNN serves multiples of 64 queries and 128 keys";
  if (p.causal && p.queries != p.keys) return "cuDNN's causal mask wants as many keys as queries";
  if (pass == AttentionPass::Backward &&
      2 * p.batch * p.heads * p.queries * p.keys > kMaxGradientBytes)
    return "cuDNN's deterministic backward would keep more than 2 GiB";
  return "";
#endif
}

// Measured beside cuDNN, whose backward is the deterministic one (attention_bench): of its time the
// own forward takes 0.83 to 0.95 at width 64 under the causal mask up to 1,024 tokens, 1.03 and
// more elsewhere; the own backward 0.74 at width 64, 0.94 at 128 under the mask.
bool is_own_attention_faster(const AttentionProblem& p, AttentionPass pass) {
  if (p.dtype != DType::BF16) return false;
  if (pass == AttentionPass::Forward) return p.width <= 64 && p.causal && p.queries <= 1024;
  return p.width <= 64 || (p.width == 128 && p.causal);
}

bool takes_cudnn_attention(const AttentionProblem& p, AttentionPass pass) {
  return cudnn_attention_refusal(p, pass).empty() && !is_own_attention_faster(p, pass);
}

AttentionRoute attention_route(const AttentionProblem& p, AttentionPass pass, Device device) {
  if (!device.is_cuda())
    return {fmt::format("cpu {}", p.dtype), "blocks of queries, sums in f32 (f64 for f64)"};
  if (takes_cudnn_attention(p, pass)) return {"cudnn", "faster here than the library's own"};
  if (p.dtype != DType::BF16)
    return {"fma f32", "f32 is IEEE f32, for which tensor cores have no product"};
  const std::string_view refusal = cudnn_attention_refusal(p, pass);
  const std::string why(refusal.empty() ? "faster here than cuDNN" : refusal);
  if (p.width > kMaxWgmmaWidth)
    return {"mma bf16",
            fmt::format("{}; warpgroup products take heads of up to {}", why, kMaxWgmmaWidth)};
  return {"wgmma bf16", why};
}

}  // namespace nibble
