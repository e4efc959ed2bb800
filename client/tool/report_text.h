#pragma once

#include <string>

#include "sparseserve/v1/inference_service.pb.h"

namespace sparseserve {

// A report for a person: a few lines of "name  value".
std::string ReportText(const v1::GenerationReport& report);

}  // namespace sparseserve
