#pragma once

#include <string>

#include "sparseserve/v1/inference_service.pb.h"

namespace sparseserve {

// An explanation for a person: a few lines of "name  value", a table with a row
// for each head, and what each query attends to most.
std::string ExplainText(const v1::ExplainAttentionResponse& explanation);

}  // namespace sparseserve
