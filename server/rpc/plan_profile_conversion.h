#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/engine.h"
#include "server/policy/plan_profile.h"
#include "sparseserve/v1/plan_profile.pb.h"

namespace sparseserve {

// Profiles as files have them. Pure but for the two that name a path; any
// thread.

// The profile that `proto` is, for this model. INVALID_ARGUMENT names all that
// cannot be, by the names of plan_profile.proto. FAILED_PRECONDITION if it is
// a good profile of something else: another format, model or kernel version.
// So it is if the model was loaded without Options::fingerprint_weights. Of
// plans that rule prompts, and of those that rule output alone, each must have
// no less divergence_upper and no more median density than the one before it,
// in the first band that both have.
absl::StatusOr<PlanProfile> ConvertPlanProfile(const v1::PlanProfile& proto,
                                               const ModelInfo& model);

v1::PlanProfile ToProto(const PlanProfile& profile);

// Likewise for a file in text format, which may hold anything: every message
// begins with its path. NOT_FOUND if it cannot be read; INVALID_ARGUMENT also
// for more than 16 MiB, of which nothing is read, and what is no regular file.
absl::StatusOr<PlanProfile> ReadPlanProfile(const std::string& path,
                                            const ModelInfo& model);

// In text format, after lines of comment each of which begins with "#". Whole
// or, with UNAVAILABLE, not at all.
absl::Status WritePlanProfile(const std::string& path,
                              const std::string& comment,
                              const PlanProfile& profile);

}  // namespace sparseserve
