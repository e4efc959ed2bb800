#include "tests/testing/normal_draws.h"

#include <random>
#include <vector>

namespace sparseserve {
namespace {

constexpr size_t kDraws = 65521;

std::vector<float> Draw() {
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  std::vector<float> draws(kDraws);
  for (float& draw : draws) draw = normal(random);
  return draws;
}

const std::vector<float>& Table() {
  static const auto* const kTable = new std::vector<float>(Draw());
  return *kTable;
}

}  // namespace

NormalDraws::NormalDraws(uint32_t seed)
    : next_(std::mt19937(seed)() % kDraws) {}

float NormalDraws::operator()() {
  const float draw = Table()[next_];
  next_ = next_ + 1 == kDraws ? 0 : next_ + 1;
  return draw;
}

}  // namespace sparseserve
