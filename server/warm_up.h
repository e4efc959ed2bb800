#pragma once

#include "absl/status/status.h"
#include "engine/engine.h"

namespace sparseserve {

// Runs a prompt of a page and one token behind it, with the engine's first two
// pages, as the first request would: so that no caller waits for memory that is
// touched first, and a model that computes nothing usable is found out before
// it is offered. INTERNAL says what went wrong.
// REQUIRES: nothing else uses the engine.
absl::Status WarmUp(Engine& engine);

}  // namespace sparseserve
