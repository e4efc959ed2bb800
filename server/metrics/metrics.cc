#include "server/metrics/metrics.h"

namespace sparseserve {

struct Metrics::Series {};

}  // namespace sparseserve
