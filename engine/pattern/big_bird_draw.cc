#include "engine/pattern/big_bird_draw.h"

#include <algorithm>
#include <bit>
#include <random>
#include <utility>

#include "engine/base/status_macros.h"
#include "engine/base/str_cat.h"

namespace sparseserve {
namespace {

// Blocks [begin, end) beside what is in `blocks`.
void AppendBlocks(int32_t begin, int32_t end, std::vector<int32_t>& blocks) {
  for (int32_t block = begin; block < end; ++block) blocks.push_back(block);
}

// NumPy's RandomState: its generator, and how it permutes.
class NumPyRandom {
 public:
  explicit NumPyRandom(uint32_t seed) : generator_(seed) {}

  void Permute(std::vector<int32_t>& values) {
    for (size_t i = values.size(); i-- > 1;) {
      std::swap(values[i], values[UpTo(static_cast<uint32_t>(i))]);
    }
  }

 private:
  uint32_t UpTo(uint32_t most) {
    const uint32_t mask = ~uint32_t{0} >> std::countl_zero(most);
    uint32_t value = 0;
    do {
      value = static_cast<uint32_t>(generator_()) & mask;
    } while (value > most);
    return value;
  }

  std::mt19937 generator_;
};

// 256 MB of them.
constexpr int64_t kMaxDrawnBlocks = int64_t{1} << 26;

class Drawing {
 public:
  Drawing(const BigBirdPattern& pattern, const BigBirdDraw& draw)
      : draw_(draw),
        block_tokens_(pattern.block_tokens),
        random_blocks_(pattern.random_blocks),
        blocks_(draw.tokens / pattern.block_tokens),
        random_(draw.seed),
        drawn_(int64_t{draw.heads} * (blocks_ - 2) * random_blocks_) {}

  absl::StatusOr<std::vector<int32_t>> AsInThePaper() {
    const int32_t all = draw_.most_tokens / block_tokens_;
    constexpr int32_t kFirstTokens = 1024;
    const int32_t last = kFirstTokens > 2 * block_tokens_
                             ? kFirstTokens / block_tokens_ - 1
                             : all - 1;
    for (int32_t head = 0; head < draw_.heads; ++head) {
      for (int32_t row = 1; row < all - 1; ++row) {
        std::vector<int32_t> blocks = PaperChoice(row, all, last);
        random_.Permute(blocks);
        // Rows that the sequence lacks are drawn all the same.
        if (row < blocks_ - 1) RETURN_IF_ERROR(Keep(head, row, blocks));
      }
    }
    return std::move(drawn_);
  }

  absl::StatusOr<std::vector<int32_t>> FromTheFirst() {
    int32_t end = blocks_;
    if (2 * int64_t{random_blocks_} + 5 < blocks_) {
      end = 2 * random_blocks_ + 5;
    } else if (int64_t{random_blocks_} + 5 < blocks_) {
      return absl::InvalidArgumentError(
          StrCat("big_bird: ", blocks_, " blocks are too few to draw ",
                 random_blocks_, " of; allowed: up to ", random_blocks_ + 5,
                 ", or ", 2 * random_blocks_ + 6, " and more"));
    }
    // The last row is drawn too, and not used.
    for (int32_t row = 1; row < blocks_; ++row) {
      for (int32_t head = 0; head < draw_.heads; ++head) {
        std::vector<int32_t> blocks;
        AppendBlocks(0, end, blocks);
        random_.Permute(blocks);
        const auto is_seen = [&](int32_t block) {
          return (block >= row - 1 && block <= row + 1) || block == 0 ||
                 block == end - 1 || (row == 1 && block == end - 2) ||
                 (row == end - 2 && block == 1);
        };
        blocks.erase(std::remove_if(blocks.begin(), blocks.end(), is_seen),
                     blocks.end());
        if (row < blocks_ - 1) RETURN_IF_ERROR(Keep(head, row, blocks));
      }
    }
    return std::move(drawn_);
  }

 private:
  // What a row of `all` blocks may draw: the published bounds, which are not
  // quite those of what it sees anyhow.
  static std::vector<int32_t> PaperChoice(int32_t row, int32_t all,
                                          int32_t last) {
    // Block b is at b - 1 of the middle blocks, which bounds count.
    const int32_t end = std::min(last, all - 2) + 1;
    std::vector<int32_t> blocks;
    if (row <= 2) {
      AppendBlocks(row + 2, end, blocks);
    } else if (row >= all - 3 || row - 2 > last) {
      AppendBlocks(1, end, blocks);
    } else {
      AppendBlocks(1, std::min(row - 1, all - 1), blocks);
      if (row + 1 != last) AppendBlocks(row + 2, end, blocks);
    }
    return blocks;
  }

  absl::Status Keep(int32_t head, int32_t row,
                    const std::vector<int32_t>& blocks) {
    if (static_cast<int32_t>(blocks.size()) < random_blocks_) {
      return absl::InvalidArgumentError(
          StrCat("big_bird: row of blocks ", row, " of ", blocks_, " has ",
                 blocks.size(), " to draw from, fewer than random_blocks, ",
                 random_blocks_));
    }
    std::copy_n(blocks.begin(), random_blocks_,
                drawn_.begin() +
                    (int64_t{head} * (blocks_ - 2) + row - 1) * random_blocks_);
    return absl::OkStatus();
  }

  const BigBirdDraw& draw_;
  const int32_t block_tokens_;
  const int32_t random_blocks_;
  const int32_t blocks_;
  NumPyRandom random_;
  std::vector<int32_t> drawn_;  // [heads, blocks - 2, random_blocks]
};

}  // namespace

absl::StatusOr<std::vector<int32_t>> DrawBigBirdBlocks(
    const BigBirdPattern& pattern, const BigBirdDraw& draw) {
  RETURN_IF_ERROR(CheckSequence(pattern, draw.tokens, draw.heads));
  const int32_t block = pattern.block_tokens;
  if (draw.tokens % block != 0 || draw.tokens / block < 3) {
    return absl::InvalidArgumentError(
        StrCat("big_bird: a sequence of ", draw.tokens,
               " tokens; allowed: a multiple of block_tokens, ", block,
               ", 3 or more of them"));
  }
  if (draw.most_tokens < draw.tokens || draw.most_tokens > kMaxEncoderTokens) {
    return absl::InvalidArgumentError(
        StrCat("big_bird: most_tokens is ", draw.most_tokens,
               "; allowed: ", draw.tokens, " to ", kMaxEncoderTokens));
  }
  const int64_t drawn =
      int64_t{draw.heads} * (draw.tokens / block - 2) * pattern.random_blocks;
  if (drawn > kMaxDrawnBlocks) {
    return absl::InvalidArgumentError(StrCat(
        "big_bird: ", drawn,
        " blocks to draw, for all heads and rows; allowed: ", kMaxDrawnBlocks));
  }
  Drawing drawing(pattern, draw);
  const bool is_of_paper =
      draw.tokens == 1024 || draw.tokens == 3072 || draw.tokens == 4096;
  return is_of_paper ? drawing.AsInThePaper() : drawing.FromTheFirst();
}

}  // namespace sparseserve
