nibble_test(nn
  SOURCES test_checkpoint_file.cpp
  LINK nibble::nn)
