nibble_test(train
  SOURCES test_trainer.cpp test_evaluate.cpp test_plan_table.cpp test_samples.cpp
  LINK nibble::train)
find_package(Python3 REQUIRED COMPONENTS Interpreter)
add_test(NAME kill COMMAND Python3::Interpreter ${CMAKE_CURRENT_SOURCE_DIR}/test_kill.py $<TARGET_FILE:nibble>)
