#include "tensor/cuda/context.h"

#include <cstring>
#include <memory>
#include <mutex>
#include <new>
#include <utility>
#include <vector>

#include "tensor/cuda/graph.h"
#include "tensor/cuda/part_flags.h"
#include "tensor/device_support.h"
#include "tensor/out_of_memory.h"
#include "tensor/storage.h"

namespace nibble::cuda {
namespace {

struct Context {
  cudaStream_t stream = nullptr;
  cublasLtHandle_t blas = nullptr;
  void* workspace = nullptr;
  Fault* fault = nullptr;  // pinned host memory that the device writes
  std::uint32_t* part_flags = nullptr;
  int multiprocessors = 0;
};

// Never destroyed: static tensors may outlive any static object, and the driver frees all at exit.
struct Contexts {
  std::mutex mutex;
  std::vector<std::unique_ptr<Context>> by_device;
};
Contexts& contexts() {
  static Contexts* c = new Contexts;
  return *c;
}

// The runtime reserves stack for every thread that can be resident, 264 MiB on an H200 by its
// default of 1,024 bytes. Kernels' own frames are known when they are loaded and counted apart, and
// none here recurses or calls through pointers. A program that asked for more keeps it.
void reserve_little_stack() {
  constexpr std::size_t kDefault = 1024, kEnough = 256;
  std::size_t limit = 0;
  NIBBLE_CUDA_CHECK(cudaDeviceGetLimit(&limit, cudaLimitStackSize));
  if (limit == kDefault) NIBBLE_CUDA_CHECK(cudaDeviceSetLimit(cudaLimitStackSize, kEnough));
}

thread_local int t_current = -1;
std::uint64_t g_copies_to_host = 0;

Context& context() {
  if (t_current < 0) use(0);
  Contexts& all = contexts();
  const std::lock_guard lock(all.mutex);
  const auto at = static_cast<std::size_t>(t_current);
  if (all.by_device.size() <= at) all.by_device.resize(at + 1);
  std::unique_ptr<Context>& slot = all.by_device[at];
  if (!slot) {
    auto c = std::make_unique<Context>();
    reserve_little_stack();
    NIBBLE_CUDA_CHECK(cudaStreamCreateWithFlags(&c->stream, cudaStreamNonBlocking));
    NIBBLE_CUDA_CHECK(
        cudaDeviceGetAttribute(&c->multiprocessors, cudaDevAttrMultiProcessorCount, t_current));
    void* host = nullptr;
    NIBBLE_CUDA_CHECK(cudaHostAlloc(&host, sizeof(Fault), cudaHostAllocMapped));
    // What kernels find zeroed: the flags of parts, then who claims the fault.
    void* words = nullptr;
    constexpr std::size_t kBytes = (kPartFlags + 1) * sizeof(std::uint32_t);
    NIBBLE_CUDA_CHECK(cudaMalloc(&words, kBytes));
    NIBBLE_CUDA_CHECK(cudaMemsetAsync(words, 0, kBytes, c->stream));
    c->part_flags = static_cast<std::uint32_t*>(words);
    c->fault = new (host) Fault{.kind = Fault::kNone,
                                .value = 0,
                                .position = 0,
                                .extent = 0,
                                .claimed = static_cast<std::int32_t*>(words) + kPartFlags};
    slot = std::move(c);
  }
  return *slot;
}

[[noreturn]] void throw_fault(const Fault& f) {
  constexpr const char* kWhen = "; found on the GPU, after later operations had begun";
  if (f.kind == Fault::kTarget)
    fail("cross_entropy", "got target {} in row {}, expected 0 to {}, or -1 for an ignored row{}",
         f.value, f.position, f.extent - 1, kWhen);
  const char* op = f.kind == Fault::kIndexSelect ? "index_select"
                   : f.kind == Fault::kIndexAdd  ? "index_add"
                                                 : "take_along_last";
  fail(op, "got index {} at position {}, expected 0 to {}{}", f.value, f.position, f.extent - 1,
       kWhen);
}

[[noreturn]] void throw_code(const char* expression, int code, const char* text, const char* file,
                             int line) {
  const char* name = std::strrchr(file, '/');
  fail("cuda", "{} failed: {} (code {}) at {}:{}", expression, text, code, name ? name + 1 : file,
       line);
}

// Of what the runtime and its libraries take for themselves. The heap may be locked by this thread,
// so it isn't asked what is in use.
[[noreturn]] void throw_no_memory(const char* expression) {
  (void)cudaGetLastError();  // it is not sticky
  MemoryInfo m{};
  std::string left;
  if (cudaMemGetInfo(&m.free, &m.total) == cudaSuccess)
    left = fmt::format("; the GPU has {} free of {}", size_text(static_cast<std::int64_t>(m.free)),
                       size_text(static_cast<std::int64_t>(m.total)));
  else
    (void)cudaGetLastError();
  fail(
      "allocate",
      "out of memory on cuda:{}: {} found none{}; end other programs that use it, or use a smaller "
      "batch",
      current(), expression, left);
}

}  // namespace

void throw_status(const char* expression, cudaError_t status, const char* file, int line) {
  if (status == cudaErrorMemoryAllocation) throw_no_memory(expression);
  throw_code(expression, status, cudaGetErrorString(status), file, line);
}
void throw_status(const char* expression, cublasStatus_t status, const char* file, int line) {
  if (status == CUBLAS_STATUS_ALLOC_FAILED) throw_no_memory(expression);
  throw_code(expression, status, cublasLtGetStatusString(status), file, line);
}

int device_count() {
  static const int count = [] {
    int n = 0;
    return cudaGetDeviceCount(&n) == cudaSuccess ? n : 0;
  }();
  return count;
}

void check_device(int index) {
  GpuFacts facts{.index = index, .count = device_count()};
  if (facts.count == 0) {
    int n = 0;
    const cudaError_t status = cudaGetDeviceCount(&n);
    facts.runtime_says = cudaGetErrorString(status == cudaSuccess ? cudaErrorNoDevice : status);
  } else if (index < facts.count) {
    cudaDeviceProp p{};
    NIBBLE_CUDA_CHECK(cudaGetDeviceProperties(&p, index));
    facts.name = p.name;
    facts.major = p.major;
    facts.minor = p.minor;
  }
  const std::string fault = gpu_fault(facts);
  NIBBLE_CHECK(fault.empty(), "device", "{}", fault);
}

std::string device_name(int index) {
  cudaDeviceProp p{};
  NIBBLE_CUDA_CHECK(cudaGetDeviceProperties(&p, index));
  return p.name;
}

void use(int index) {
  if (t_current == index) return;
  NIBBLE_CUDA_CHECK(cudaSetDevice(index));
  t_current = index;
}
int current() { return t_current < 0 ? 0 : t_current; }

cudaStream_t stream() { return context().stream; }
cudaStream_t exchange_stream(cudaStream_t s) { return std::exchange(context().stream, s); }
int multiprocessors() { return context().multiprocessors; }
Fault* fault() { return context().fault; }

std::uint32_t* part_flags(std::int64_t count) {
  NIBBLE_CHECK(count <= kPartFlags, "cuda", "got {} flags of parts, expected at most {}", count,
               kPartFlags);
  return context().part_flags;
}

cublasLtHandle_t blas() {
  Context& c = context();
  if (!c.blas) NIBBLE_CUBLAS_CHECK(cublasLtCreate(&c.blas));
  return c.blas;
}

void* blas_workspace() {
  Context& c = context();
  if (c.workspace) return c.workspace;
  const Device device = cuda_device(current());
  c.workspace = allocate(kBlasWorkspace);
  if (!c.workspace) {
    release_cached_memory(device);
    c.workspace = allocate(kBlasWorkspace);
  }
  if (!c.workspace) throw_out_of_memory(device, kBlasWorkspace, "cuBLAS's workspace");
  return c.workspace;
}

void wait() {
  ++g_copies_to_host;
  NIBBLE_CUDA_CHECK(cudaStreamSynchronize(stream()));
}

void synchronize() {
  Context& c = context();
  wait();
  if (c.fault->kind != Fault::kNone) {
    const Fault found = *c.fault;
    c.fault->kind = Fault::kNone;
    NIBBLE_CUDA_CHECK(cudaMemsetAsync(found.claimed, 0, sizeof(std::int32_t), c.stream));
    throw_fault(found);
  }
}

void copy_to_device(void* to, const void* from, std::size_t bytes) {
  NIBBLE_CHECK(
      !recording(), "graph",
      "{} bytes were to be copied from the host in a recorded step; --graph off runs it as it "
      "is",
      bytes);
  NIBBLE_CUDA_CHECK(cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice, stream()));
}

void copy_to_host(void* to, const void* from, std::size_t bytes) {
  NIBBLE_CHECK(
      !recording(), "graph",
      "{} bytes were to be copied to the host in a recorded step; --graph off runs it as it is",
      bytes);
  NIBBLE_CUDA_CHECK(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, stream()));
  synchronize();
}
std::uint64_t copies_to_host() { return g_copies_to_host; }

void* allocate_pinned(std::size_t bytes) {
  context();
  void* block = nullptr;
  NIBBLE_CUDA_CHECK(cudaHostAlloc(&block, bytes, cudaHostAllocDefault));
  return block;
}
void free_pinned(void* block) { (void)cudaFreeHost(block); }

void* allocate(std::size_t bytes) {
  context();  // the device is chosen and alive
  void* block = nullptr;
  const cudaError_t status = cudaMalloc(&block, bytes);
  if (status == cudaErrorMemoryAllocation) {
    (void)cudaGetLastError();  // it is not sticky; the caller frees its cache and tries again
    return nullptr;
  }
  NIBBLE_CUDA_CHECK(status);
  return block;
}

void free(void* block) { (void)cudaFree(block); }

MemoryInfo memory_info() {
  context();
  MemoryInfo m{};
  NIBBLE_CUDA_CHECK(cudaMemGetInfo(&m.free, &m.total));
  return m;
}

}  // namespace nibble::cuda
