nibble_test(hf_gpt2 SOURCES test_hf_gpt2.cpp LINK nibble::cli)
add_test(NAME import COMMAND Python3::Interpreter ${CMAKE_CURRENT_SOURCE_DIR}/test_import.py $<TARGET_FILE:nibble>)
add_test(NAME export COMMAND Python3::Interpreter ${CMAKE_CURRENT_SOURCE_DIR}/test_export.py $<TARGET_FILE:nibble>)
