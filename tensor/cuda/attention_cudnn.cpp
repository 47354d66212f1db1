// Attention on cuDNN, through its header-only frontend, which nothing else includes: compiling it
// takes half a minute. bf16 without dropout (cuDNN's draws are its own, not ours). A graph is built
// once for a case and kept: building takes far longer than running.
#ifdef NIBBLE_HAS_CUDNN
#define CUDNN_FRONTEND_SKIP_JSON_LIB
#include <cudnn_frontend.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <map>
#include <memory>
#include <mutex>
#include <unordered_map>
#include <vector>

#include "tensor/cuda/attention_routes.h"
#include "tensor/cuda/context.h"

namespace nibble::cuda {
namespace {

namespace fe = cudnn_frontend;
using Graph = fe::graph::Graph;
using GraphTensor = std::shared_ptr<fe::graph::Tensor_attributes>;

constexpr const char* kOp = "attention";

void check(fe::error_t status) {
  NIBBLE_CHECK(status.is_good(), kOp, "cuDNN refused: {}", status.get_message());
}
void check(cudnnStatus_t status) {
  NIBBLE_CHECK(status == CUDNN_STATUS_SUCCESS, kOp, "cuDNN failed: {}",
               cudnnGetErrorString(status));
}

// One handle a device, like the stream that it works on; never destroyed, as is the stream.
cudnnHandle_t handle() {
  static std::mutex mutex;
  static std::map<int, cudnnHandle_t>* handles = new std::map<int, cudnnHandle_t>;
  const std::lock_guard lock(mutex);
  cudnnHandle_t& h = (*handles)[current()];
  if (!h) check(cudnnCreate(&h));
  check(cudnnSetStream(h, stream()));
  return h;
}

// Names of a graph's tensors; their order is that of the operands below.
enum Uid : std::int64_t { kQ = 1, kK, kV, kOut, kLse, kDout, kDq, kDk, kDv };

// Operands are [B, T, H, D] views; cuDNN wants the extents as [B, H, T, D].
GraphTensor declare(GraphTensor t, Uid uid, const Tensor& x) {
  const Shape &n = x.shape(), &s = x.strides();
  t->set_uid(uid).set_dim({n[0], n[2], n[1], n[3]}).set_stride({s[0], s[2], s[1], 1});
  return t;
}
GraphTensor declare_lse(GraphTensor t, const Tensor& lse) {
  const Shape& n = lse.shape();
  t->set_uid(kLse).set_dim({n[0], n[1], n[2], 1}).set_stride({n[1] * n[2], n[2], 1, 1});
  t->set_data_type(fe::DataType_t::FLOAT);
  return t;
}
GraphTensor input(Graph& graph) { return graph.tensor(fe::graph::Tensor_attributes()); }

float scale_of(const Tensor& q, const AttentionOptions& o) {
  return static_cast<float>(o.scale != 0 ? o.scale : 1 / std::sqrt(static_cast<double>(q.size(3))));
}

// All that a graph depends on besides addresses.
using Key = std::vector<std::int64_t>;
Key key_of(AttentionPass pass, const AttentionOptions& o,
           std::initializer_list<const Tensor*> operands) {
  Key key{current(), static_cast<std::int64_t>(pass), o.causal,
          std::bit_cast<std::int64_t>(o.scale)};
  for (const Tensor* x : operands)
    for (int dim = 0; dim < 4; ++dim) {
      key.push_back(x->size(dim));
      key.push_back(x->strides()[dim]);
    }
  return key;
}

template <class Build>
Graph& cached_graph(const Key& key, Build build) {
  static std::mutex mutex;
  static auto* graphs = new std::map<Key, std::unique_ptr<Graph>>;
  const std::lock_guard lock(mutex);
  std::unique_ptr<Graph>& graph = (*graphs)[key];
  if (!graph) {
    auto fresh = std::make_unique<Graph>();
    fresh->set_io_data_type(fe::DataType_t::BFLOAT16)
        .set_intermediate_data_type(fe::DataType_t::FLOAT)
        .set_compute_data_type(fe::DataType_t::FLOAT);
    build(*fresh);
    check(fresh->build(handle(), {fe::HeurMode_t::A}));
    graph = std::move(fresh);
  }
  return *graph;
}

void run(const Graph& graph, std::unordered_map<std::int64_t, void*> addresses, Device device) {
  std::int64_t bytes = 0;
  check(graph.get_workspace_size(bytes));
  Tensor workspace = Tensor::empty({std::max<std::int64_t>(bytes, 1)}, DType::U8, device);
  check(graph.execute(handle(), addresses, workspace.raw()));
}
void* address(const Tensor& x) { return const_cast<std::byte*>(x.raw()); }

}  // namespace

void cudnn_attention(Tensor& out, Tensor& lse, const Tensor& q, const Tensor& k, const Tensor& v,
                     const AttentionOptions& options) {
  const Key key = key_of(AttentionPass::Forward, options, {&q, &k, &v, &out});
  const Graph& graph = cached_graph(key, [&](Graph& g) {
    auto attributes = fe::graph::SDPA_attributes()
                          .set_name("attention")
                          .set_generate_stats(true)
                          .set_attn_scale(scale_of(q, options));
    if (options.causal)
      attributes.set_diagonal_alignment(fe::DiagonalAlignment_t::TOP_LEFT)
          .set_diagonal_band_right_bound(0);
    const auto [o, stats] = g.sdpa(declare(input(g), kQ, q), declare(input(g), kK, k),
                                   declare(input(g), kV, v), attributes);
    declare(o, kOut, out)->set_output(true);
    declare_lse(stats, lse)->set_output(true);
  });
  run(graph,
      {{kQ, address(q)},
       {kK, address(k)},
       {kV, address(v)},
       {kOut, address(out)},
       {kLse, address(lse)}},
      q.device());
}

void cudnn_attention_backward(Tensor& dq, Tensor& dk, Tensor& dv, const Tensor& dout,
                              const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& out,
                              const Tensor& lse, const AttentionOptions& options) {
  const Key key =
      key_of(AttentionPass::Backward, options, {&q, &k, &v, &out, &dout, &dq, &dk, &dv});
  const Graph& graph = cached_graph(key, [&](Graph& g) {
    auto attributes = fe::graph::SDPA_backward_attributes()
                          .set_name("attention_backward")
                          .set_attn_scale(scale_of(q, options))
                          .set_deterministic_algorithm(true);
    if (options.causal)
      attributes.set_diagonal_alignment(fe::DiagonalAlignment_t::TOP_LEFT)
          .set_diagonal_band_right_bound(0);
    const auto [gq, gk, gv] =
        g.sdpa_backward(declare(input(g), kQ, q), declare(input(g), kK, k),
                        declare(input(g), kV, v), declare(input(g), kOut, out),
                        declare(input(g), kDout, dout), declare_lse(input(g), lse), attributes);
    declare(gq, kDq, dq)->set_output(true);
    declare(gk, kDk, dk)->set_output(true);
    declare(gv, kDv, dv)->set_output(true);
  });
  run(graph,
      {{kQ, address(q)},
       {kK, address(k)},
       {kV, address(v)},
       {kOut, address(out)},
       {kLse, address(lse)},
       {kDout, address(dout)},
       {kDq, address(dq)},
       {kDk, address(dk)},
       {kDv, address(dv)}},
      q.device());
}

}  // namespace nibble::cuda

#endif  // NIBBLE_HAS_CUDNN
