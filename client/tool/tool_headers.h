// What most files of the tool read, precompiled under the sanitizer presets. No
// file includes this: each includes what it uses, which the other presets
// check.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "sparseserve/v1/inference_service.grpc.pb.h"
#include "sparseserve/v1/model_service.grpc.pb.h"
