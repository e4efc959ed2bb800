#include "engine/pattern/reformer_buckets.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <numbers>
#include <numeric>
#include <random>

#include "absl/types/span.h"
#include "engine/base/status_macros.h"
#include "engine/base/str_cat.h"
#include "engine/pattern/passes_size.h"

namespace sparseserve {
namespace {

constexpr int32_t kMaxFactors = 8;
// Of all rounds and of padding together, so that they are int32.
constexpr int64_t kMaxBuckets = int64_t{1} << 30;
// 512 MB of them.
constexpr int64_t kMaxRotations = int64_t{1} << 26;
// Of tokens and random numbers, which is what time follows: 65,536 tokens, 8
// heads of 128 elements and 4 rounds of 512 buckets, the largest published
// model's.
constexpr int64_t kMaxProducts = int64_t{1} << 36;

int64_t BucketsOf(const ReformerHash& hash) {
  int64_t buckets = 1;
  for (const int32_t factor : hash.factors) buckets *= factor;
  return buckets;
}

absl::Status OutOfRange(const char* what, int64_t value, int64_t most) {
  return absl::InvalidArgumentError(
      StrCat("reformer_lsh: ", what, " is ", value, "; allowed: 1 to ", most));
}

absl::Status CheckFactors(const ReformerHash& hash) {
  if (hash.factors.empty() || hash.factors.size() > kMaxFactors) {
    return OutOfRange("the number of factors",
                      static_cast<int64_t>(hash.factors.size()), kMaxFactors);
  }
  int64_t buckets = hash.rounds;
  for (const int32_t factor : hash.factors) {
    if (factor < 2 || factor % 2 != 0 || factor > kMaxBuckets / buckets) {
      return absl::InvalidArgumentError(
          StrCat("reformer_lsh: a factor of ", factor,
                 " buckets; allowed: even, 2 to ", kMaxBuckets / buckets));
    }
    buckets *= factor;
  }
  return absl::OkStatus();
}

absl::Status CheckHash(const ReformerHash& hash) {
  if (hash.heads < 1 || hash.heads > kMaxEncoderHeads) {
    return OutOfRange("heads", hash.heads, kMaxEncoderHeads);
  }
  if (hash.head_dim < 1 || hash.head_dim > kMaxEncoderHeadDim) {
    return OutOfRange("head_dim", hash.head_dim, kMaxEncoderHeadDim);
  }
  if (hash.rounds < 1 || hash.rounds > kMaxEncoderTokens) {
    return OutOfRange("rounds", hash.rounds, kMaxEncoderTokens);
  }
  RETURN_IF_ERROR(CheckFactors(hash));
  // Each factor of the product is at most 2^10, 2^10, 2^20 and 2^32.
  const int64_t of_round =
      int64_t{hash.heads} * hash.head_dim * hash.rotation_columns();
  if (hash.rounds <= kMaxRotations / of_round) return absl::OkStatus();
  return absl::InvalidArgumentError(
      StrCat("reformer_lsh: ", hash.rounds, " rounds of ", of_round,
             " random numbers; allowed: ", kMaxRotations, " in all"));
}

// torch's generator, and what it makes of it.
class TorchRandom {
 public:
  explicit TorchRandom(uint32_t seed) : generator_(seed) {}

  double Uniform() {
    const uint64_t high = generator_();
    const uint64_t bits = high << 32 | static_cast<uint32_t>(generator_());
    return std::ldexp(static_cast<double>(bits & ((uint64_t{1} << 53) - 1)),
                      -53);
  }

  // Box and Muller's of 8 pairs, whose halves are 8 apart.
  static void MakeNormal(absl::Span<double> uniform) {
    for (size_t i = 0; i < 8; ++i) {
      const double radius = std::sqrt(-2 * std::log(1 - uniform[i]));
      const double angle = 2 * std::numbers::pi * uniform[i + 8];
      uniform[i] = radius * std::cos(angle);
      uniform[i + 8] = radius * std::sin(angle);
    }
  }

 private:
  std::mt19937 generator_;
};

absl::Status CheckFinite(const ReformerVectors& given) {
  const int64_t width = given.vectors.columns;
  for (int64_t i = 0; i < given.vectors.rows * width; ++i) {
    if (std::isfinite(given.vectors.row(0)[i])) continue;
    return absl::InvalidArgumentError(
        StrCat("reformer_lsh: the vector of token ", i / width, " has a ",
               given.vectors.row(0)[i], ", not finite"));
  }
  for (size_t i = 0; i < given.rotations.size(); ++i) {
    if (std::isfinite(given.rotations[i])) continue;
    return absl::InvalidArgumentError(StrCat("reformer_lsh: random number ", i,
                                             " is ", given.rotations[i],
                                             ", not finite"));
  }
  return absl::OkStatus();
}

absl::Status CheckVectors(const ReformerLshPattern& pattern,
                          const ReformerHash& hash,
                          const ReformerVectors& given) {
  RETURN_IF_ERROR(CheckHash(hash));
  const auto tokens = static_cast<int64_t>(given.is_real.size());
  RETURN_IF_ERROR(CheckSequence(pattern, tokens, hash.heads));
  if (hash.rounds > kMaxEncoderTokens / tokens) {
    return absl::InvalidArgumentError(
        StrCat("reformer_lsh: ", hash.rounds, " rounds; allowed: 1 to ",
               kMaxEncoderTokens / tokens, " of ", tokens, " tokens"));
  }
  RETURN_IF_ERROR(CheckPassesSize(
      "reformer_lsh", {.slots = int64_t{hash.heads} * hash.rounds * tokens}));
  const int64_t width = int64_t{hash.heads} * hash.head_dim;
  const int64_t wanted = width * hash.rounds * hash.rotation_columns();
  if (tokens > kMaxProducts / wanted) {
    return absl::InvalidArgumentError(StrCat(
        "reformer_lsh: ", tokens, " tokens and ", wanted,
        " random numbers; allowed: ", kMaxProducts, " of their product"));
  }
  if (given.vectors.rows != tokens || given.vectors.columns != width) {
    return absl::InvalidArgumentError(
        StrCat("reformer_lsh: vectors are ", given.vectors.rows, " x ",
               given.vectors.columns, ", not ", tokens, " x ", width));
  }
  if (static_cast<int64_t>(given.rotations.size()) != wanted) {
    return absl::InvalidArgumentError(StrCat("reformer_lsh: rotations of ",
                                             given.rotations.size(),
                                             " elements, not ", wanted));
  }
  return CheckFinite(given);
}

// The bucket of a turned vector.
int32_t BucketOf(const ReformerHash& hash, const std::vector<double>& turned) {
  int64_t bucket = 0, weight = 1, first = 0;
  for (const int32_t factor : hash.factors) {
    const int32_t half = factor / 2;
    int32_t greatest = 0;
    const auto element = [&](int32_t i) {
      return i < half ? turned[first + i] : -turned[first + i - half];
    };
    for (int32_t i = 1; i < factor; ++i) {
      if (element(i) > element(greatest)) greatest = i;
    }
    bucket += weight * greatest;
    weight *= factor;
    first += half;
  }
  return static_cast<int32_t>(bucket);
}

}  // namespace

int64_t ReformerHash::rotation_columns() const {
  return std::accumulate(factors.begin(), factors.end(), int64_t{0}) / 2;
}

absl::StatusOr<std::vector<int32_t>> ReformerFactors(
    const ReformerLshPattern& pattern, int32_t tokens, int32_t most_tokens) {
  RETURN_IF_ERROR(CheckSequence(pattern, tokens, 1));
  const int32_t chunk = pattern.chunk_tokens;
  if (tokens < chunk || most_tokens < tokens ||
      most_tokens > kMaxEncoderTokens) {
    return absl::InvalidArgumentError(
        StrCat("reformer_lsh: ", tokens, " tokens in chunks of ", chunk,
               ", of at most ", most_tokens, "; allowed: at least a chunk, ",
               "at most ", kMaxEncoderTokens, " and what the model has"));
  }
  const int32_t power =
      std::bit_width(static_cast<uint32_t>(2 * (tokens / chunk))) - 1;
  const int64_t most_chunks = most_tokens / chunk;
  const auto root =
      static_cast<int32_t>(std::sqrt(static_cast<double>(most_chunks)));
  if (int64_t{1} << power <= 2 * int64_t{std::max(root, chunk)}) {
    return std::vector<int32_t>{1 << power};
  }
  return std::vector<int32_t>{1 << power / 2, 1 << (power - power / 2)};
}

absl::StatusOr<std::vector<double>> DrawReformerRotations(
    const ReformerHash& hash, uint32_t seed) {
  RETURN_IF_ERROR(CheckHash(hash));
  constexpr size_t kDrawn = 16;  // at a time
  const size_t count = static_cast<size_t>(hash.heads) * hash.head_dim *
                       hash.rounds * hash.rotation_columns();
  std::vector<double> draws(std::max(count, kDrawn));
  TorchRandom random(seed);
  for (double& draw : draws) draw = random.Uniform();
  for (size_t first = 0; first + kDrawn <= draws.size(); first += kDrawn) {
    TorchRandom::MakeNormal(absl::MakeSpan(draws).subspan(first, kDrawn));
  }
  // The last ones are drawn anew if they do not come to a whole number of
  // times.
  if (draws.size() % kDrawn != 0) {
    const absl::Span<double> last = absl::MakeSpan(draws).last(kDrawn);
    for (double& draw : last) draw = random.Uniform();
    TorchRandom::MakeNormal(last);
  }
  draws.resize(count);
  return draws;
}

absl::StatusOr<std::vector<int32_t>> ReformerBuckets(
    const ReformerLshPattern& pattern, const ReformerHash& hash,
    const ReformerVectors& given) {
  RETURN_IF_ERROR(CheckVectors(pattern, hash, given));
  const auto tokens = static_cast<int64_t>(given.is_real.size());
  const bool has_padding = std::find(given.is_real.begin(), given.is_real.end(),
                                     false) != given.is_real.end();
  const auto buckets = static_cast<int32_t>(BucketsOf(hash));
  const int32_t of_round = buckets + (has_padding ? 1 : 0);
  const int64_t columns = hash.rotation_columns();
  std::vector<int32_t> chosen;
  chosen.reserve(int64_t{hash.heads} * hash.rounds * tokens);
  std::vector<double> turned(columns);
  for (int32_t head = 0; head < hash.heads; ++head) {
    for (int32_t round = 0; round < hash.rounds; ++round) {
      for (int64_t token = 0; token < tokens; ++token) {
        const float* vector =
            given.vectors.row(token) + int64_t{head} * hash.head_dim;
        std::fill(turned.begin(), turned.end(), 0.0);
        for (int64_t i = 0; i < hash.head_dim; ++i) {
          const double* rotation =
              given.rotations.data() +
              ((head * int64_t{hash.head_dim} + i) * hash.rounds + round) *
                  columns;
          for (int64_t c = 0; c < columns; ++c) {
            turned[c] += vector[i] * rotation[c];
          }
        }
        const int32_t bucket =
            given.is_real[token] ? BucketOf(hash, turned) : buckets;
        chosen.push_back(round * of_round + bucket);
      }
    }
  }
  return chosen;
}

}  // namespace sparseserve
