nibble_test(nn
  SOURCES test_checkpoint_file.cpp test_npy.cpp
  LINK nibble::nn)
