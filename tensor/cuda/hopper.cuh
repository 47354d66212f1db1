// Instructions of compute capability 9.0 (PTX ISA): barriers in shared memory, the copy engine for
// tiles of tensors, clusters, warpgroups. Addresses are shared_address()es.
#pragma once

#include <cuda.h>

#include <cstdint>

#include "tensor/cuda/matrix_loads.cuh"

namespace nibble::cuda::hopper {

// ---- barriers: a phase ends after its arrivals and the announced bytes of copies ----------------

__device__ inline void init_barrier(std::uint32_t barrier, std::uint32_t arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory");
}
// Makes initialised barriers visible to the copy engine and to the cluster.
__device__ inline void fence_barrier_init() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}
__device__ inline void arrive(std::uint32_t barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}
// At the same barrier of another block of the cluster. An explicit .release.cluster would fence all
// of memory, which takes longer than a product; what this orders are reads that have ended.
__device__ inline void arrive_at(std::uint32_t barrier, std::uint32_t rank) {
  asm volatile(
      "{.reg .b32 remote; mapa.shared::cluster.u32 remote, %0, %1; "
      "mbarrier.arrive.shared::cluster.b64 _, [remote];}" ::"r"(barrier),
      "r"(rank)
      : "memory");
}
// The address of another block's barrier (or any of its shared memory), and arriving there.
__device__ inline std::uint32_t address_in(std::uint32_t rank, std::uint32_t address) {
  std::uint32_t remote;
  asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(remote) : "r"(address), "r"(rank));
  return remote;
}
__device__ inline void arrive_remote(std::uint32_t barrier) {
  asm volatile("mbarrier.arrive.shared::cluster.b64 _, [%0];" ::"r"(barrier) : "memory");
}
__device__ inline void arrive_expecting(std::uint32_t barrier, std::uint32_t bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes)
               : "memory");
}
// Arrives when this thread's earlier cp.async copies have landed.
__device__ inline void arrive_after_copies(std::uint32_t barrier) {
  asm volatile("cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];" ::"r"(barrier) : "memory");
}
// Until the phase of this parity is over.
__device__ inline void wait(std::uint32_t barrier, std::uint32_t parity) {
  asm volatile(
      "{.reg .pred done; again: mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1; "
      "@done bra over; bra again; over:}" ::"r"(barrier),
      "r"(parity)
      : "memory");
}

// Where a walk over stages, each with its barriers, stands.
template <std::uint32_t kStages>
struct Ring {
  std::uint32_t stage = 0, parity = 0;

  __device__ void advance() {
    if (++stage == kStages) {
      stage = 0;
      parity ^= 1;
    }
  }
};

// ---- tiles of tensors ---------------------------------------------------------------------------

__device__ inline void prefetch(const CUtensorMap& map) {
  asm volatile("prefetch.tensormap [%0];" ::"l"(&map) : "memory");
}
// The map's box at (x, y) to shared memory; what lies outside the tensor becomes zeros.
__device__ inline void load_tile(std::uint32_t to, const CUtensorMap& map, std::uint32_t barrier,
                                 std::uint32_t x, std::uint32_t y) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], "
      "[%1, {%3, %4}], [%2];" ::"r"(to),
      "l"(&map), "r"(barrier), "r"(x), "r"(y)
      : "memory");
}
// The same of a tensor of four dimensions.
__device__ inline void load_tile(std::uint32_t to, const CUtensorMap& map, std::uint32_t barrier,
                                 int x, int y, int z, int w) {
  asm volatile(
      "cp.async.bulk.tensor.4d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], "
      "[%1, {%3, %4, %5, %6}], [%2];" ::"r"(to),
      "l"(&map), "r"(barrier), "r"(x), "r"(y), "r"(z), "r"(w)
      : "memory");
}
// `bytes` from global memory; addresses and count are multiples of 16.
__device__ inline void load_bytes(std::uint32_t to, const void* from, std::uint32_t bytes,
                                  std::uint32_t barrier) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::
          "r"(to),
      "l"(from), "r"(bytes), "r"(barrier)
      : "memory");
}
// The same to every block of the cluster in `mask`, at the same place, with its own barrier.
__device__ inline void load_tile_to(std::uint16_t mask, std::uint32_t to, const CUtensorMap& map,
                                    std::uint32_t barrier, std::uint32_t x, std::uint32_t y) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes"
      ".multicast::cluster [%0], [%1, {%4, %5}], [%2], %3;" ::"r"(to),
      "l"(&map), "r"(barrier), "h"(mask), "r"(x), "r"(y)
      : "memory");
}
// From shared memory to the tensor, clipped to it; the thread's stores form groups.
__device__ inline void store_tile(const CUtensorMap& map, std::uint32_t from, std::uint32_t x,
                                  std::uint32_t y) {
  asm volatile(
      "cp.async.bulk.tensor.2d.global.shared::cta.tile.bulk_group [%0, {%2, %3}], [%1];" ::"l"(
          &map),
      "r"(from), "r"(x), "r"(y)
      : "memory");
}
__device__ inline void commit_stores() { asm volatile("cp.async.bulk.commit_group;" ::: "memory"); }
// Until all but the newest kPending groups have read their shared memory.
template <int kPending>
__device__ void wait_for_store_reads() {
  asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(kPending) : "memory");
}
// Between ordinary stores to shared memory and the copy engine's reads of it.
__device__ inline void fence_for_copy_engine() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

// ---- clusters and warpgroups --------------------------------------------------------------------

__device__ inline std::uint32_t cluster_rank() {
  std::uint32_t rank;
  asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return rank;
}
// From the shared memory of another block of the cluster (address_in).
__device__ inline uint4 load_remote(std::uint32_t address) {
  uint4 v;
  asm volatile("ld.shared::cluster.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "r"(address)
               : "memory");
  return v;
}
__device__ inline void cluster_arrive() {
  asm volatile("barrier.cluster.arrive.release;" ::: "memory");
}
__device__ inline void cluster_wait() {
  asm volatile("barrier.cluster.wait.acquire;" ::: "memory");
}
__device__ inline void cluster_sync() {
  asm volatile("barrier.cluster.arrive.release; barrier.cluster.wait.acquire;" ::: "memory");
}
// Registers a thread of the calling warpgroup, a multiple of 8.
template <int kCount>
__device__ void give_registers() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kCount));
}
template <int kCount>
__device__ void take_registers() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kCount));
}
// Named barriers 1 … 15 of a part of the block.
__device__ inline void sync_threads(std::uint32_t name, std::uint32_t threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(name), "r"(threads) : "memory");
}

// ---- between blocks of a grid: order what others wrote before
// ------------------------------------

__device__ inline void add_releasing(std::uint32_t* counter, std::uint32_t x) {
  asm volatile("red.release.gpu.global.add.u32 [%0], %1;" ::"l"(counter), "r"(x) : "memory");
}
__device__ inline std::uint32_t load_acquiring(const std::uint32_t* counter) {
  std::uint32_t x;
  asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(x) : "l"(counter) : "memory");
  return x;
}

// ---- wgmma --------------------------------------------------------------------------------------

// Operand of K-major rows of 128 bytes in the copy engine's 128-byte swizzle: groups of 8 rows lie
// 1024 bytes apart. Add 2 to step 32 bytes along K.
__device__ inline std::uint64_t swizzled_rows(std::uint32_t address) {
  return (std::uint64_t{1} << 62) | (std::uint64_t{1024 / 16} << 32) | (std::uint64_t{1} << 16) |
         ((address & 0x3ffff) >> 4);
}
// The operand `bytes` further on, in 32-bit arithmetic.
__device__ inline std::uint64_t rows_after(std::uint64_t rows, std::uint32_t bytes) {
  return (rows & 0xffffffff00000000) | (static_cast<std::uint32_t>(rows) + bytes / 16);
}
__device__ inline void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ inline void wgmma_commit() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
template <int kPending>
__device__ void wgmma_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
}
// Keeps the compiler from moving uses of registers that an asynchronous product writes.
template <int kCount>
__device__ void keep(std::int32_t (&x)[kCount]) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) asm volatile("" : "+r"(x[i])::"memory");
}

// The same of rows of 2-byte elements, 64 to a row of 128 bytes, that are summed over (the operand
// is MN-major): further columns lie `next_columns` bytes on. Add 128 to step 16 rows.
__device__ inline std::uint64_t summed_rows(std::uint32_t address, std::uint32_t next_columns) {
  return (std::uint64_t{1} << 62) | (std::uint64_t{1024 / 16} << 32) |
         (static_cast<std::uint64_t>(next_columns / 16) << 16) | ((address & 0x3ffff) >> 4);
}

// Four 8 × 8 matrices of 2-byte elements to shared memory, as load_matrices reads them.
__device__ inline void store_matrices(std::uint32_t address, const std::uint32_t (&r)[4]) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(address),
               "r"(r[0]), "r"(r[1]), "r"(r[2]), "r"(r[3])
               : "memory");
}

}  // namespace nibble::cuda::hopper
