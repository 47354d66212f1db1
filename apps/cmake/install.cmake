# `cmake --install`: the program, its configs, the libraries with their headers, and the package that
# find_package(nibble) reads.
include(CMakePackageConfigHelpers)

set(components tensor quant autograd nn optim models data config run report profile train compare bench cli)
list(TRANSFORM components PREPEND nibble_ OUTPUT_VARIABLE component_targets)
install(TARGETS nibble RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
install(TARGETS ${component_targets} EXPORT nibble_targets ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR}/nibble)

# As in the source tree: #include "tensor/tensor.h". Kernels and their helpers stay inside.
foreach(folder tensor quant autograd nn optim models data apps/config apps/run apps/report apps/profile
    apps/train apps/compare apps/bench apps/cli)
  install(DIRECTORY ${PROJECT_SOURCE_DIR}/${folder}/ DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/nibble/${folder}
    FILES_MATCHING PATTERN "*.h"
    PATTERN cpu EXCLUDE PATTERN cuda EXCLUDE PATTERN text EXCLUDE PATTERN gpt2 EXCLUDE)
endforeach()
install(DIRECTORY ${PROJECT_SOURCE_DIR}/apps/configs/ DESTINATION ${CMAKE_INSTALL_DATADIR}/nibble/configs)

set(package_folder ${CMAKE_INSTALL_LIBDIR}/cmake/nibble)
install(EXPORT nibble_targets NAMESPACE nibble:: FILE nibble-targets.cmake DESTINATION ${package_folder})
configure_package_config_file(${CMAKE_CURRENT_LIST_DIR}/nibble-config.cmake.in
  ${PROJECT_BINARY_DIR}/nibble-config.cmake INSTALL_DESTINATION ${package_folder})
write_basic_package_version_file(${PROJECT_BINARY_DIR}/nibble-config-version.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_BINARY_DIR}/nibble-config.cmake ${PROJECT_BINARY_DIR}/nibble-config-version.cmake
  DESTINATION ${package_folder})
