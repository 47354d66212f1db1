# Lockstep of both devices; every case is skipped without a GPU. `tests/run.sh --gpu` runs them.
if(NIBBLE_HAS_CUDA)
  nibble_test(cuda
    SOURCES
      cuda/test_cuda_attention.cpp cuda/test_cuda_attention_codes.cpp cuda/test_cuda_compare.cpp cuda/test_cuda_copy.cpp cuda/test_cuda_delayed.cpp
      cuda/test_cuda_dlogits.cpp cuda/test_cuda_elementwise.cpp cuda/test_cuda_encodings.cpp cuda/test_cuda_fp8.cpp cuda/test_cuda_graph.cpp
      cuda/test_cuda_in_backward.cpp cuda/test_cuda_index.cpp cuda/test_cuda_int_gemm.cpp cuda/test_cuda_int_operands.cpp
      cuda/test_cuda_kernel_trace.cpp
      cuda/test_cuda_loss.cpp cuda/test_cuda_matmul.cpp cuda/test_cuda_memory.cpp
      cuda/test_cuda_model.cpp cuda/test_cuda_norm.cpp cuda/test_cuda_one_pass.cpp
      cuda/test_cuda_moments.cpp cuda/test_cuda_op_table.cpp cuda/test_cuda_optim.cpp cuda/test_cuda_pair.cpp cuda/test_cuda_plans.cpp
      cuda/test_cuda_quant.cpp cuda/test_cuda_quant_scales.cpp cuda/test_cuda_random.cpp
      cuda/test_cuda_reduce.cpp cuda/test_cuda_sentinels.cpp cuda/test_cuda_softmax.cpp cuda/test_cuda_sources.cpp
      cuda/test_cuda_weighted_rows.cpp
      op_support.cpp op_support_matrix.cpp
    LINK nibble_op_table nibble::compare nibble::models nibble::optim)
  nibble_test(cuda_long SOURCES cuda/test_cuda_long.cpp LINK nibble::optim)
  add_test(NAME cuda_bench
    COMMAND Python3::Interpreter ${CMAKE_CURRENT_SOURCE_DIR}/test_bench.py $<TARGET_FILE:nibble> cuda)
  add_test(NAME cuda_kill
    COMMAND Python3::Interpreter ${CMAKE_CURRENT_SOURCE_DIR}/test_kill.py $<TARGET_FILE:nibble> cuda)
endif()
