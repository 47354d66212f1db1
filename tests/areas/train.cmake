nibble_test(train
  SOURCES test_trainer.cpp test_evaluate.cpp
  LINK nibble::train)
