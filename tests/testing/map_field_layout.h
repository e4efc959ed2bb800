// Read before anything else under ThreadSanitizer (see the top CMakeLists.txt).
//
// protobuf's map_field.h gives map fields two more members where it sees
// __SANITIZE_THREAD__. The library, which the sanitizer did not compile, knows
// nothing of them: reflection on a map field would take others for them.
#pragma once

// The standard library decides with its first header what the macro means to
// it, so that only protobuf's own headers are read without.
#include <cstddef>

#pragma push_macro("__SANITIZE_THREAD__")
#undef __SANITIZE_THREAD__
#include <google/protobuf/map_field.h>
#pragma pop_macro("__SANITIZE_THREAD__")
