nibble_test(tensor
  SOURCES test_tensor.cpp test_tensor_elementwise.cpp test_tensor_reduce.cpp test_tensor_shape.cpp
          test_tensor_errors.cpp test_memory_guard.cpp test_normal_math.cpp test_bad_device.cpp
          test_recorded_work.cpp test_block_space.cpp
  LINK nibble::tensor)
