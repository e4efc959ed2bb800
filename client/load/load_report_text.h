#pragma once

#include <string>

#include "client/load/load_recorder.h"
#include "client/load/load_report.pb.h"
#include "client/load/request_outcome.h"

namespace sparseserve {

// For a person: what was measured, a table with a row for each class, what was
// refused or failed and why, and warnings.
std::string LoadReportText(const client_load::LoadReport& report);

// As JSON, zeros included.
std::string LoadReportJson(const client_load::LoadReport& report);

// One line for each request, in the order of their ends.
std::string RequestCsvHeader();
std::string RequestCsvLine(const LoadClass& load_class,
                           const PlannedRequest& planned,
                           const RequestOutcome& outcome, Verdict verdict);

// "850 us", "12.3 ms", "4.56 s"; of seconds.
std::string FormatSeconds(double seconds);

}  // namespace sparseserve
