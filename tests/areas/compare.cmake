nibble_test(compare SOURCES test_compare.cpp LINK nibble::compare)
find_package(Python3 REQUIRED COMPONENTS Interpreter)
add_test(NAME compare_layers COMMAND Python3::Interpreter ${CMAKE_CURRENT_SOURCE_DIR}/test_compare.py $<TARGET_FILE:nibble>)
