#include "server/calibration/length_bands.h"

#include <algorithm>
#include <random>

#include "engine/base/str_cat.h"
#include "engine/step.h"

namespace sparseserve {

int LengthBand::min_tokens() const { return first_block * kPageTokens + 1; }
int LengthBand::max_tokens() const { return end_block * kPageTokens; }

absl::StatusOr<std::vector<LengthBand>> BandsBetween(
    absl::Span<const int> borders, int context_tokens) {
  if (borders.size() < 2) {
    return absl::InvalidArgumentError(StrCat("--lengths has ", borders.size(),
                                             " lengths, must have 2 or "
                                             "more: bands are between them"));
  }
  std::vector<LengthBand> bands;
  for (size_t i = 0; i < borders.size(); ++i) {
    const int least = i == 0 ? 0 : borders[i - 1] + kPageTokens;
    if (borders[i] % kPageTokens != 0 || borders[i] < least ||
        borders[i] > context_tokens) {
      return absl::InvalidArgumentError(
          StrCat("--lengths has ", borders[i], ", must be a multiple of ",
                 kPageTokens, " from ", least, " to ", context_tokens));
    }
    if (i == 0) continue;
    bands.push_back({borders[i - 1] / kPageTokens, borders[i] / kPageTokens});
  }
  return bands;
}

std::vector<std::vector<int>> DrawBlocks(const std::vector<LengthBand>& bands,
                                         int count, uint64_t seed, int text) {
  std::seed_seq sequence = {static_cast<uint32_t>(seed),
                            static_cast<uint32_t>(seed >> 32),
                            static_cast<uint32_t>(text)};
  std::mt19937 random(sequence);
  std::vector<std::vector<int>> drawn;
  for (const LengthBand& band : bands) {
    const int parts = std::min(count, band.blocks());
    std::vector<int>& blocks = drawn.emplace_back();
    for (int part = 0; part < parts; ++part) {
      const int first = band.first_block + part * band.blocks() / parts;
      const int end = band.first_block + (part + 1) * band.blocks() / parts;
      // As standard libraries agree on it, unlike
      // std::uniform_int_distribution.
      blocks.push_back(first + static_cast<int>(random() % (end - first)));
    }
  }
  return drawn;
}

}  // namespace sparseserve
