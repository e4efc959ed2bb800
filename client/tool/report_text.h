#pragma once

#include <string>

#include "google/protobuf/duration.pb.h"
#include "sparseserve/v1/inference_service.pb.h"

namespace sparseserve {

// A report for a person: a few lines of "name  value".
std::string ReportText(const v1::GenerationReport& report);

// Its part that says how attention was computed.
std::string AttentionText(const v1::AttentionReport& attention);

// "0.5 ms", "120 ms", "12.0 s".
std::string FormatTime(const google::protobuf::Duration& duration);

}  // namespace sparseserve
