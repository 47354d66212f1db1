nibble_test(config SOURCES test_config.cpp test_config_jsonnet.cpp test_config_parts.cpp LINK nibble::config)
