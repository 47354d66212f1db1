// Nothing of note moves here: one thread reads a flag.
#include "tensor/cuda/graph.h"

#include <utility>

#include "tensor/cuda/common.cuh"

namespace nibble::cuda {
namespace {

thread_local bool t_recording = false;

__global__ void set_condition(cudaGraphConditionalHandle handle, const std::uint32_t* flag) {
  cudaGraphSetConditional(handle, *flag == 0 ? 1u : 0u);
}

// What the stream's recording depends on now.
struct CaptureState {
  cudaGraph_t graph = nullptr;
  const cudaGraphNode_t* dependencies = nullptr;
  const cudaGraphEdgeData* edges = nullptr;
  std::size_t count = 0;
};
CaptureState capture_state(cudaStream_t s) {
  CaptureState c;
  cudaStreamCaptureStatus status{};
  NIBBLE_CUDA_CHECK(
      cudaStreamGetCaptureInfo(s, &status, nullptr, &c.graph, &c.dependencies, &c.edges, &c.count));
  NIBBLE_CHECK(status == cudaStreamCaptureStatusActive, "graph", "nothing is being recorded");
  return c;
}

// Ends a recording that failed, so that the stream can be used again.
void abandon(cudaStream_t s) {
  cudaGraph_t graph = nullptr;
  if (cudaStreamEndCapture(s, &graph) == cudaSuccess && graph) (void)cudaGraphDestroy(graph);
  (void)cudaGetLastError();
}

class RecordingFlag {
 public:
  RecordingFlag() { t_recording = true; }
  ~RecordingFlag() { t_recording = false; }
};

// A stream of its own for the recording of a body; launches go there while it lives.
class BodyStream {
 public:
  BodyStream() {
    NIBBLE_CUDA_CHECK(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking));
    previous_ = exchange_stream(stream_);
  }
  ~BodyStream() {
    exchange_stream(previous_);
    (void)cudaStreamDestroy(stream_);
  }
  cudaStream_t get() const { return stream_; }

 private:
  cudaStream_t stream_ = nullptr, previous_ = nullptr;
};

}  // namespace

bool recording() { return t_recording; }

Graph::~Graph() {
  if (instance_) (void)cudaGraphExecDestroy(instance_);
}

void Graph::record(const std::function<void()>& work) {
  NIBBLE_CHECK(!t_recording, "graph", "a recording inside a recording");
  const cudaStream_t s = stream();
  wait();  // what was queued is no part of it
  cudaGraph_t graph = nullptr;
  {
    // Relaxed: allocations are permitted meanwhile, and are none of the graph's business.
    NIBBLE_CUDA_CHECK(cudaStreamBeginCapture(s, cudaStreamCaptureModeRelaxed));
    const RecordingFlag flag;
    try {
      work();
    } catch (...) {
      abandon(s);
      throw;
    }
    NIBBLE_CUDA_CHECK(cudaStreamEndCapture(s, &graph));
  }
  cudaGraphExec_t instance = nullptr;
  const cudaError_t status = cudaGraphInstantiate(&instance, graph, 0);
  (void)cudaGraphDestroy(graph);
  NIBBLE_CUDA_CHECK(status);
  if (instance_) (void)cudaGraphExecDestroy(instance_);
  instance_ = instance;
}

void Graph::launch() const {
  NIBBLE_CHECK(instance_, "graph", "nothing was recorded");
  NIBBLE_CUDA_CHECK(cudaGraphLaunch(instance_, stream()));
}

void record_unless(const std::uint32_t* flag, const std::function<void()>& body) {
  NIBBLE_CHECK(t_recording, "graph", "a condition outside a recording");
  const cudaStream_t s = stream();
  cudaGraphConditionalHandle handle{};
  NIBBLE_CUDA_CHECK(cudaGraphConditionalHandleCreate(&handle, capture_state(s).graph, 0,
                                                     cudaGraphCondAssignDefault));
  launch(set_condition, 1, 1, 0, handle, flag);
  const CaptureState at = capture_state(s);
  cudaGraphNodeParams node_params{};
  node_params.type = cudaGraphNodeTypeConditional;
  node_params.conditional.handle = handle;
  node_params.conditional.type = cudaGraphCondTypeIf;
  node_params.conditional.size = 1;
  cudaGraphNode_t node = nullptr;
  NIBBLE_CUDA_CHECK(
      cudaGraphAddNode(&node, at.graph, at.dependencies, at.edges, at.count, &node_params));
  NIBBLE_CUDA_CHECK(
      cudaStreamUpdateCaptureDependencies(s, &node, nullptr, 1, cudaStreamSetCaptureDependencies));
  const BodyStream inner;
  NIBBLE_CUDA_CHECK(cudaStreamBeginCaptureToGraph(inner.get(),
                                                  node_params.conditional.phGraph_out[0], nullptr,
                                                  nullptr, 0, cudaStreamCaptureModeRelaxed));
  try {
    body();
  } catch (...) {
    cudaGraph_t part = nullptr;
    (void)cudaStreamEndCapture(inner.get(), &part);  // the whole graph owns it
    throw;
  }
  cudaGraph_t part = nullptr;
  NIBBLE_CUDA_CHECK(cudaStreamEndCapture(inner.get(), &part));
}

}  // namespace nibble::cuda
