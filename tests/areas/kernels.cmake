nibble_test(kernels SOURCES test_matmul.cpp test_norm.cpp test_attention.cpp test_loss.cpp)
