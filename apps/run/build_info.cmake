# cmake -D source=… -D input=… -D output=… -D git=… -D version=… … -P build_info.cmake
# Runs at every build (two git commands); configure_file leaves an unchanged file alone, so nothing is
# compiled again unless the commit or the dirty flag changed.
set(commit "unknown")
set(dirty false)
if(git)
  execute_process(COMMAND ${git} -C ${source} rev-parse --show-prefix HEAD
    OUTPUT_VARIABLE answer ERROR_QUIET RESULT_VARIABLE failed)
  # An empty prefix: the tree itself is the repository, not a copy inside someone else's.
  if(NOT failed AND answer MATCHES "^\n([0-9a-f]+)\n$")
    set(commit ${CMAKE_MATCH_1})
    execute_process(COMMAND ${git} -C ${source} --no-optional-locks status --porcelain --untracked-files=no
      OUTPUT_VARIABLE changes ERROR_QUIET)
    if(changes)
      set(dirty true)
    endif()
  endif()
endif()
configure_file(${input} ${output} @ONLY)
