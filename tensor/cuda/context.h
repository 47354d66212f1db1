// What every CUDA unit needs of the runtime: checked calls, the stream, the library handles,
// copies, and faults that kernels report. One stream a device: kernels never take a stream
// argument. Host code only; it compiles without nvcc.
#pragma once

#include <cublasLt.h>
#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>
#include <string>

#include "tensor/check.h"
#include "tensor/device.h"

namespace nibble::cuda {

// Status texts; running out of memory is told as such, with what the device has.
[[noreturn]] void throw_status(const char* expression, cudaError_t status, const char* file,
                               int line);
[[noreturn]] void throw_status(const char* expression, cublasStatus_t status, const char* file,
                               int line);

// Devices of this machine; 0 without a driver or a GPU.
int device_count();
// Throws a clear error when the device cannot serve: absent, or older than this build's kernels.
void check_device(int index);
std::string device_name(int index);  // "NVIDIA H200"
// Makes `index` the device that stream(), blas() and allocations of this thread refer to.
void use(int index);
int current();

cudaStream_t stream();
cudaStream_t exchange_stream(cudaStream_t s);  // the one before; for recording conditional work
cublasLtHandle_t blas();
inline constexpr std::size_t kBlasWorkspace = 64u << 20;
void* blas_workspace();  // kBlasWorkspace bytes; products of one stream follow each other
int multiprocessors();

void wait();         // for the stream
void synchronize();  // waits, then throws what a kernel reported through fault()
// Ordered on the stream. copy_to_host waits too; an op that makes the host wait is a defect.
// Neither may be called while a graph is recorded.
void copy_to_device(void* to, const void* from, std::size_t bytes);
void copy_to_host(void* to, const void* from, std::size_t bytes);
std::uint64_t copies_to_host();  // with every other wait of the host for the stream

// Memory of the host that copies reach without a stop on the way; freed by free_pinned.
void* allocate_pinned(std::size_t bytes);
void free_pinned(void* block);

// Device memory of `bytes` (not cached: Storage caches), nullptr when there is none left.
void* allocate(std::size_t bytes);
void free(void* block);
struct MemoryInfo {
  std::size_t free, total;
};
MemoryInfo memory_info();

// What a kernel found wrong with its data. It lies in host memory that the device can write, is set
// by the first offender (see report_fault in common.cuh), and becomes an Error at the next
// synchronisation, because a kernel cannot throw.
struct Fault {
  enum Kind : std::int32_t { kNone, kIndexSelect, kIndexAdd, kTakeAlongLast, kTarget };
  std::int32_t kind;
  std::int32_t value;     // the index at fault
  std::int64_t position;  // where it stands
  std::int64_t extent;    // what it should have been below
  std::int32_t* claimed;  // on the device: not every bus has atomics on host memory
};
Fault* fault();

}  // namespace nibble::cuda

#define NIBBLE_CUDA_CHECK(expression)                                                 \
  do {                                                                                \
    if (const cudaError_t nibble_status = (expression); nibble_status != cudaSuccess) \
      ::nibble::cuda::throw_status(#expression, nibble_status, __FILE__, __LINE__);   \
  } while (0)
#define NIBBLE_CUBLAS_CHECK(expression)                                                            \
  do {                                                                                             \
    if (const cublasStatus_t nibble_status = (expression); nibble_status != CUBLAS_STATUS_SUCCESS) \
      ::nibble::cuda::throw_status(#expression, nibble_status, __FILE__, __LINE__);                \
  } while (0)
