#include "engine/layout/masked_layout_builder.h"

#include <algorithm>
#include <random>
#include <vector>

#include "engine/layout/attention_passes.h"
#include "gtest/gtest.h"

namespace sparseserve {
namespace {

using Keys = MaskedLayoutBuilder::Keys;
using Rows = MaskedLayoutBuilder::Rows;

constexpr int kSlots = 300;

// What rows of the one list see, [rows][slots].
using Seen = std::vector<std::vector<bool>>;

Seen SeenBy(const BlockLayout& layout, int rows) {
  Seen seen(rows, std::vector<bool>(AlignedSlots(kSlots)));
  for (const int32_t block : layout.full_blocks) {
    for (int r = 0; r < rows; ++r) {
      std::fill_n(seen[r].begin() + block * 64, 64, true);
    }
  }
  for (size_t i = 0; i < layout.partial_blocks.size(); ++i) {
    for (int r = 0; r < rows; ++r) {
      for (int k = 0; k < 64; ++k) {
        if (layout.masks[i * 64 + r] >> k & 1) {
          seen[r][layout.partial_blocks[i] * 64 + k] = true;
        }
      }
    }
  }
  return seen;
}

// Shows the same key by key.
class NaiveList {
 public:
  NaiveList(int rows, const std::vector<bool>& has_key)
      : has_key_(has_key),
        seen_(rows, std::vector<bool>(AlignedSlots(kSlots))) {}

  void Show(const Rows& rows, const Keys& keys, int step, const Keys& bounds) {
    for (int32_t r = rows.begin; r < rows.end; ++r) {
      const int64_t moved = int64_t{r - rows.begin} * step;
      for (int64_t k = 0; k < kSlots; ++k) {
        if (k >= keys.begin + moved && k < keys.end + moved &&
            k >= bounds.begin && k < bounds.end && has_key_[k]) {
          seen_[r][k] = true;
        }
      }
    }
  }
  const Seen& seen() const { return seen_; }

 private:
  const std::vector<bool>& has_key_;
  Seen seen_;
};

TEST(MaskedLayoutBuilderTest, ShowsWhatItWasTold) {
  std::mt19937 random(1);
  const auto below = [&](int64_t end) {
    return static_cast<int64_t>(random() % end);
  };
  int full = 0, empty = 0;
  for (int round = 0; round < 600; ++round) {
    // All keys are there, or most, or few.
    std::vector<bool> has_key(kSlots);
    const int64_t missing = std::vector<int64_t>{0, 1, 50, 100}[round % 4];
    for (auto&& has : has_key) has = below(100) >= missing;
    const auto rows = static_cast<int32_t>(1 + below(64));
    MaskedLayoutBuilder builder(1, has_key);
    NaiveList naive(rows, has_key);
    builder.BeginList(rows);
    for (int64_t shows = below(4); shows >= 0; --shows) {
      Rows some = {0, rows};
      if (below(2) == 0) {
        some.begin = static_cast<int32_t>(below(rows));
        some.end =
            some.begin + 1 + static_cast<int32_t>(below(rows - some.begin));
      }
      Keys bounds = {below(kSlots), 0};
      bounds.end = bounds.begin + below(kSlots - bounds.begin + 1);
      if (below(2) == 0) {
        builder.Show(some, bounds);
        naive.Show(some, bounds, 0, bounds);
      } else {
        const int64_t begin = below(kSlots) - 100;
        const Keys keys = {begin, begin + below(250)};
        builder.ShowBand(some, keys, bounds);
        naive.Show(some, keys, 1, bounds);
      }
    }
    const int32_t list = builder.EndList();
    if (list >= 0) builder.AddTile({.rows = rows}, {list});
    const BlockLayout layout = builder.TakeLayout();
    ASSERT_EQ(layout.Validate(), absl::OkStatus());
    ASSERT_EQ(SeenBy(layout, rows), naive.seen()) << "round " << round;
    full += static_cast<int>(layout.full_blocks.size());
    empty += list < 0 ? 1 : 0;
  }
  // Both were tried.
  EXPECT_GT(full, 50);
  EXPECT_GT(empty, 20);
}

TEST(MaskedLayoutBuilderTest, ListsBlocksThatAllRowsSeeAsFull) {
  MaskedLayoutBuilder builder(1, std::vector<bool>(320, true));
  builder.BeginList(64);
  // Rows 0 ... 63 see [r + 1, r + 257).
  builder.ShowBand({0, 64}, {1, 257}, {0, 320});
  builder.AddTile({.rows = 64}, {builder.EndList()});
  const BlockLayout layout = builder.TakeLayout();
  EXPECT_EQ(layout.full_blocks, (std::vector<int32_t>{1, 2, 3}));
  EXPECT_EQ(layout.partial_blocks, (std::vector<int32_t>{0, 4}));
}

TEST(MaskedLayoutBuilderTest, JoinsPartsToFullBlocks) {
  MaskedLayoutBuilder builder(1, std::vector<bool>(128, true));
  builder.BeginList(40);
  builder.Show({0, 25}, {0, 70});
  builder.Show({25, 40}, {0, 30});
  builder.Show({25, 40}, {30, 128});
  builder.AddTile({.rows = 40}, {builder.EndList()});
  const BlockLayout layout = builder.TakeLayout();
  EXPECT_EQ(layout.full_blocks, (std::vector<int32_t>{0}));
  EXPECT_EQ(layout.partial_blocks, (std::vector<int32_t>{1}));
}

TEST(MaskedLayoutBuilderTest, AddsBiasesAndKeepsEqualTilesOnce) {
  MaskedLayoutBuilder builder(1, std::vector<bool>(128, true));
  for (int list = 0; list < 2; ++list) {
    builder.BeginList(64);
    builder.Show({0, 64}, {0, 128});
    builder.AddBias({3, 5}, {60, 70}, 0.5f);
    builder.AddBias({4, 5}, {62, 63}, 2.0f);
    builder.AddTile({.rows = 64}, {builder.EndList()});
  }
  const BlockLayout layout = builder.TakeLayout();
  ASSERT_EQ(layout.Validate(), absl::OkStatus());
  EXPECT_EQ(layout.full_bias_of, (std::vector<int32_t>{0, 1, 0, 1}));
  ASSERT_EQ(layout.bias_tiles.size(), 2 * 64 * 64);
  const auto bias = [&](int64_t entry, int row, int key) {
    return layout.FullBias(entry)[row * 64 + key];
  };
  EXPECT_EQ(bias(0, 3, 59), 0);
  EXPECT_EQ(bias(0, 3, 60), 0.5f);
  EXPECT_EQ(bias(0, 4, 62), 2.5f);
  EXPECT_EQ(bias(0, 5, 62), 0);
  EXPECT_EQ(bias(1, 4, 5), 0.5f);
  EXPECT_EQ(bias(1, 4, 6), 0);
}

TEST(MaskedLayoutBuilderTest, LayoutsWithoutBiasesHaveNone) {
  MaskedLayoutBuilder builder(2, std::vector<bool>(64, true));
  builder.BeginList(2);
  builder.ShowBits(1, 0, 5);
  const int32_t list = builder.EndList();
  builder.AddTile({.rows = 2}, {list, list});
  const BlockLayout layout = builder.TakeLayout();
  EXPECT_TRUE(layout.full_bias_of.empty());
  EXPECT_TRUE(layout.partial_bias_of.empty());
  EXPECT_EQ(layout.PartialBias(0), nullptr);
  EXPECT_EQ(layout.masks[0], 0);
  EXPECT_EQ(layout.masks[1], 5);
}

}  // namespace
}  // namespace sparseserve
