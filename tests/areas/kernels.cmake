nibble_test(kernels SOURCES test_matmul.cpp)
