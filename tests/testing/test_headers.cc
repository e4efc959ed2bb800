// An executable needs a source; nothing builds or runs this one, whose
// precompiled header the tests reuse.
#include "tests/testing/test_headers.h"
