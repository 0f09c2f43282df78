# What is installed: libplumb (shared and static) out of all layers, its public headers, pkg-config file, the program with its
# man page and completion. The build tree's program is ${CMAKE_BINARY_DIR}/plumb.

# --- the library ------------------------------------------------------------------------------------------------------------
set(all_objects "")
set(all_packages "") # imported targets that the layers link
foreach(target ${layer_targets})
  list(APPEND all_objects $<TARGET_OBJECTS:${target}>)
endforeach()
foreach(package PkgConfig::JSONC PkgConfig::YAML PkgConfig::XXHASH PkgConfig::PCRE2 PkgConfig::UTF8PROC ZLIB::ZLIB)
  list(APPEND all_packages ${package})
endforeach()
if(PLUMB_DNNL)
  list(APPEND all_packages dnnl)
endif()

add_library(plumb_static STATIC ${all_objects})
add_library(plumb_shared SHARED ${all_objects})
foreach(target plumb_static plumb_shared)
  target_include_directories(${target} PUBLIC $<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}/include> $<INSTALL_INTERFACE:include>)
  target_link_libraries(${target} PRIVATE ${all_packages} m Threads::Threads)
  if(PLUMB_OPENMP)
    target_link_libraries(${target} PRIVATE OpenMP::OpenMP_C)
  endif()
  set_target_properties(${target} PROPERTIES OUTPUT_NAME plumb LINKER_LANGUAGE C)
endforeach()
set_target_properties(plumb_shared PROPERTIES VERSION ${PROJECT_VERSION} SOVERSION 0)
if(PLUMB_SANITIZE)
  target_link_options(plumb_static INTERFACE -fsanitize=${PLUMB_SANITIZE})
  target_link_options(plumb_shared PUBLIC -fsanitize=${PLUMB_SANITIZE})
else()
  target_link_options(plumb_shared PRIVATE -Wl,--no-undefined)
endif()

install(TARGETS plumb_static plumb_shared
  ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR} LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR})
install(DIRECTORY include/plumb DESTINATION ${CMAKE_INSTALL_INCLUDEDIR} FILES_MATCHING PATTERN "*.h")
set(PLUMB_PC_PRIVATE "-lm -lpthread")
if(PLUMB_DNNL)
  string(PREPEND PLUMB_PC_PRIVATE "-ldnnl ")
endif()
if(PLUMB_OPENMP)
  string(APPEND PLUMB_PC_PRIVATE " ${OpenMP_C_FLAGS}")
endif()
# relative, so that the tree may be installed anywhere (cmake --install --prefix)
file(RELATIVE_PATH PLUMB_PC_UP "/p/${CMAKE_INSTALL_LIBDIR}/pkgconfig" "/p")
configure_file(cmake/plumb.pc.in plumb.pc @ONLY)
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/plumb.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
install(FILES LICENSE DESTINATION ${CMAKE_INSTALL_DOCDIR})

# --- the program: sees the public headers only ------------------------------------------------------------------------------
file(GLOB cli_sources CONFIGURE_DEPENDS src/cli/*.c)
if(cli_sources)
  add_executable(plumb ${cli_sources})
  target_include_directories(plumb PRIVATE ${PROJECT_SOURCE_DIR}/include ${PROJECT_SOURCE_DIR}/src/cli)
  target_compile_definitions(plumb PRIVATE _GNU_SOURCE PLUMB_VERSION="${PROJECT_VERSION}")
  get_target_property(plumb_options plumb_flags INTERFACE_COMPILE_OPTIONS)
  target_compile_options(plumb PRIVATE ${plumb_options})
  target_link_libraries(plumb PRIVATE plumb_static)
  install(TARGETS plumb RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})

  # Man page and completion come from the option tables, through the program itself.
  if(NOT PLUMB_SANITIZE)
    add_custom_command(OUTPUT plumb.1 plumb.bash
      COMMAND plumb help --man > plumb.1 COMMAND plumb help --completion > plumb.bash DEPENDS plumb VERBATIM)
    add_custom_target(plumb_generated ALL DEPENDS plumb.1 plumb.bash)
    install(FILES ${CMAKE_CURRENT_BINARY_DIR}/plumb.1 DESTINATION ${CMAKE_INSTALL_MANDIR}/man1)
    install(FILES ${CMAKE_CURRENT_BINARY_DIR}/plumb.bash DESTINATION ${CMAKE_INSTALL_DATADIR}/bash-completion/completions
      RENAME plumb)
  endif()
endif()
