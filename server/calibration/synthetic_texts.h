#pragma once

#include <cstdint>
#include <string>

namespace sparseserve {

// Texts that are hard on sparse attention, after tasks of RULER (arXiv
// 2404.06654), but with their answers written all through them, so that any
// block has rows which only a distant key explains. Each is `bytes` long or a
// little longer, and the same for the same seed on every machine.

// Retrieval: codes for names, and again and again what some name's code was
// (niah_multikey and variable tracking).
std::string RetrievalText(uint64_t seed, size_t bytes);

// Aggregation: numbered words of which a few come often, and now and then which
// these were so far (common words).
std::string AggregationText(uint64_t seed, size_t bytes);

}  // namespace sparseserve
