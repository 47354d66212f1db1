nibble_test(report SOURCES test_report.cpp test_report_pairs.cpp LINK nibble::report)
add_test(NAME report_page COMMAND Python3::Interpreter ${CMAKE_CURRENT_SOURCE_DIR}/test_report.py $<TARGET_FILE:nibble>)
