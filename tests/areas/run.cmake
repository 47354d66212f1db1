nibble_test(run SOURCES test_run.cpp test_run_events.cpp LINK nibble::run)
