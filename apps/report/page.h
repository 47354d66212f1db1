// One self-contained HTML page over runs: it needs no network and no script to be read.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "apps/report/groups.h"

namespace nibble::report {

// `defaults`: CompareOptions'.
std::string page(const std::vector<RunRecord>& runs, const std::optional<Table>& table,
                 const Json& defaults = Json::object());

// Its parts (tables.cpp, heat_map.cpp).
std::string summary_table(const std::vector<RunRecord>& runs);
std::string verdict_table(const Table& table);
std::string strata_table(const std::vector<RunRecord>& runs);
std::string config_table(const std::vector<RunRecord>& runs, const Json& defaults);
// Texts that runs drew while they trained, by run and step; "" without any.
std::string samples_section(const std::vector<RunRecord>& runs);
// Quantization telemetry of one run: a map of modules by steps for each measure; "" without any.
std::string telemetry_section(const RunRecord& run, std::size_t index);

}  // namespace nibble::report
