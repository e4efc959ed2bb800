#pragma once

#include <memory>
#include <string>

#include "engine/engine.h"

namespace sparseserve {

// A slower device, for tests of what watches the service: the engine, whose
// steps take as many seconds longer as `file` says before each of them, and say
// that attention took them. A file that is missing or does not hold a number
// from 0 to 60 slows nothing. Never used unless the environment asks for it.
std::unique_ptr<Engine> SlowedEngine(std::unique_ptr<Engine> engine,
                                     std::string file);

}  // namespace sparseserve
