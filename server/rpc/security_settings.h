#pragma once

#include "server/rpc/field_errors.h"
#include "server/rpc/server_settings.h"
#include "sparseserve/v1/server_config.pb.h"

namespace sparseserve {

// What SecurityConfig and the flags say, a flag that is given first. Notes what
// is missing, out of range or at odds.
void SettleSecurity(const v1::SecurityConfig& config, const SettingFlags& flags,
                    FieldErrors& errors, SecurityOptions& security);

}  // namespace sparseserve
