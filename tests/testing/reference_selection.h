#pragma once

#include <vector>

#include "engine/backend/backend.h"

namespace sparseserve {

// What AntidiagonalRule means, one (query, key) pair at a time in double
// precision, written from the rule and sharing nothing with the engine.
// Returns the score of every block up to the tile's own.
std::vector<double> ReferenceAntidiagonalScores(const SelectArgs& args,
                                                const QueryTile& tile,
                                                int kv_head, int stride);

// The smallest set of blocks with block 0, the last, and the best others that
// has `share` of the sum of scores.
std::vector<bool> ReferenceMassChoice(const std::vector<double>& scores,
                                      double share);

}  // namespace sparseserve
