// Choices of blocks by a prompt's last rows on a GPU against the rules in
// double precision. Keys and distances whose sums are clearly above the least
// that is taken have to show in the lists, those that are clearly below must
// not; --short leaves out the larger shapes.

#include "engine/backend/cuda/last_rows_selection.h"

#include <cuda_runtime_api.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <memory>
#include <numeric>
#include <random>
#include <string>
#include <variant>
#include <vector>

#include "tests/bench/cuda/launch_graph.h"
#include "tests/engine/backend/cuda/attention_batch.h"
#include "tests/engine/backend/cuda/bfloat16_bits.h"
#include "tests/engine/backend/cuda/test_report.h"

namespace sparseserve::cuda {
namespace {

// How far sums may be from the reference's: of exponentials whose arguments
// are single-precision sums of this size.
constexpr double kShare = 1e-4;

struct Slice {
  int number = 0;
  int first_tile = 0, end_tile = 0;
  int first_row = 0, rows = 0;
  int end = 0;  // of its keys
};

std::vector<Slice> SlicesOf(const HostBatch& batch) {
  std::vector<Slice> slices;
  for (int t = 0; t < batch.lists.tiles(); ++t) {
    const std::int32_t* f = batch.lists.tile_fields.data() + t * 4;
    if (t == 0 || f[-4] != f[0]) slices.push_back({f[0], t, t, f[1], 0, 0});
    slices.back().end_tile = t + 1;
    slices.back().rows += f[2];
    slices.back().end = f[3] + f[2];
  }
  return slices;
}

struct Sums {
  std::vector<double> columns, diagonals;
};

Sums SumLastRows(const HostBatch& batch, const Slice& slice, int rows,
                 int kv_head) {
  const int width = batch.shape.head_dim, group = batch.shape.group;
  rows = std::min(rows, slice.rows);
  std::vector<float> keys(std::int64_t{slice.end} * width);
  for (int k = 0; k < slice.end; ++k) {
    const std::int64_t page =
        batch.page_tables[slice.number * batch.page_table_stride + k / 64];
    for (int i = 0; i < width; ++i) {
      keys[std::int64_t{k} * width + i] = FromBfloat16(
          batch.keys[((page * batch.shape.kv_heads + kv_head) * 64 + k % 64) *
                         width +
                     i]);
    }
  }
  Sums sums = {std::vector<double>(slice.end), std::vector<double>(slice.end)};
  std::vector<double> logits;
  for (int h = 0; h < group; ++h) {
    for (int r = 0; r < rows; ++r) {
      const int position = slice.end - rows + r;
      const std::int64_t row = slice.first_row + slice.rows - rows + r;
      std::vector<float> query(width);
      for (int i = 0; i < width; ++i) {
        query[i] = FromBfloat16(
            batch.queries[(row * batch.heads() + kv_head * group + h) * width +
                          i]);
      }
      logits.assign(position + 1, 0);
      double maximum = -INFINITY, sum = 0;
      for (int k = 0; k <= position; ++k) {
        double dot = 0;
        for (int i = 0; i < width; ++i) {
          dot += double{query[i]} * keys[std::int64_t{k} * width + i];
        }
        logits[k] = dot * batch.scale;
        maximum = std::max(maximum, logits[k]);
      }
      for (double& logit : logits) sum += logit = std::exp(logit - maximum);
      for (int k = 0; k <= position; ++k) {
        sums.columns[k] += logits[k] / sum;
        sums.diagonals[position - k] += logits[k] / sum;
      }
    }
  }
  return sums;
}

// What a rule surely takes, and what it may take.
struct Taken {
  std::vector<char> surely, maybe;
};

Taken TakeLargest(const std::vector<double>& sums, int first, int count) {
  const int n = static_cast<int>(sums.size());
  count = std::min(count, n);
  first = std::min(first, count);
  Taken taken = {std::vector<char>(n), std::vector<char>(n)};
  std::vector<double> others(sums.begin() + first, sums.end());
  std::sort(others.rbegin(), others.rend());
  const int left = count - first;
  const double last_in = left > 0 ? others[left - 1] : INFINITY;
  const double first_out =
      left < static_cast<int>(others.size()) ? others[left] : -INFINITY;
  for (int i = 0; i < n; ++i) {
    taken.surely[i] = i < first || sums[i] > first_out * (1 + 2 * kShare);
    taken.maybe[i] = i < first || sums[i] >= last_in * (1 - 2 * kShare);
  }
  return taken;
}

double SqrtJensenShannon(const std::vector<double>& p,
                         const std::vector<double>& q) {
  const double p_sum = std::accumulate(p.begin(), p.end(), 0.0);
  const double q_sum = std::accumulate(q.begin(), q.end(), 0.0);
  const auto term = [](double a, double mean) {
    return a > 0 ? a * std::log(a / mean) : 0;
  };
  double divergence = 0;
  for (std::size_t i = 0; i < p.size(); ++i) {
    const double a = p[i] / p_sum, b = q[i] / q_sum, mean = (a + b) / 2;
    divergence += (term(a, mean) + term(b, mean)) / 2;
  }
  return std::sqrt(std::max(divergence, 0.0));
}

std::vector<double> SumBlocks(const std::vector<double>& sums) {
  std::vector<double> blocks((sums.size() + 63) / 64);
  for (std::size_t i = 0; i < sums.size(); ++i) blocks[i / 64] += sums[i];
  return blocks;
}

// How many of the largest have so much of the total.
int CountOfMass(std::vector<double> sums, double mass) {
  const double target = mass * std::accumulate(sums.begin(), sums.end(), 0.0);
  std::sort(sums.rbegin(), sums.rend());
  double sum = 0;
  int count = 0;
  while (sum < target && count < static_cast<int>(sums.size())) {
    sum += sums[count++];
  }
  return count;
}

// By mean queries and keys: for a slice's tile or its last rows, the softmax
// over blocks, summed over query heads.
class MeanScores {
 public:
  MeanScores(const HostBatch& batch, const Slice& slice, int kv_head)
      : batch_(batch), kv_head_(kv_head), width_(batch.shape.head_dim) {
    for (int b = 0; b * 64 < slice.end; ++b) {
      const int count = std::min(64, slice.end - b * 64);
      const std::int64_t page =
          batch.page_tables[slice.number * batch.page_table_stride + b];
      means_.push_back(Mean(count, [&](int r, int i) {
        return batch
            .keys[((page * batch.shape.kv_heads + kv_head) * 64 + r) * width_ +
                  i];
      }));
    }
  }
  std::vector<double> Of(std::int64_t first_row, int rows, int blocks) const {
    std::vector<double> scores(blocks);
    const int group = batch_.shape.group;
    for (int h = 0; h < group; ++h) {
      const auto query = Mean(rows, [&](int r, int i) {
        return batch_
            .queries[((first_row + r) * batch_.heads() + kv_head_ * group + h) *
                         width_ +
                     i];
      });
      std::vector<double> weights(blocks);
      double sum = 0;
      for (int b = 0; b < blocks; ++b) {
        const double dot = std::inner_product(query.begin(), query.end(),
                                              means_[b].begin(), 0.0);
        sum += weights[b] = std::exp(dot * batch_.scale);
      }
      for (int b = 0; b < blocks; ++b) scores[b] += weights[b] / sum;
    }
    return scores;
  }

 private:
  template <class At>
  std::vector<double> Mean(int count, const At& at) const {
    std::vector<double> mean(width_);
    for (int r = 0; r < count; ++r) {
      for (int i = 0; i < width_; ++i) mean[i] += FromBfloat16(at(r, i));
    }
    for (double& element : mean) element /= count;
    return mean;
  }

  const HostBatch& batch_;
  int kv_head_, width_;
  std::vector<std::vector<double>> means_;  // of key blocks
};

// Blocks up to the tile's own that hold a key of `columns`, or one at a
// distance of `diagonals` from one of its queries.
std::vector<char> BlocksOfTile(const std::vector<char>& columns,
                               const std::vector<char>& diagonals,
                               const std::int32_t* f) {
  const int last = f[3] + f[2] - 1;
  std::vector<char> blocks(last / 64 + 1);
  blocks.front() = blocks.back() = 1;
  for (int k = 0; k <= last; ++k) blocks[k / 64] |= columns[k];
  for (int q = f[3]; q <= last; ++q) {
    for (int distance = 0; distance <= q; ++distance) {
      blocks[(q - distance) / 64] |= diagonals[distance];
    }
  }
  return blocks;
}

// A batch with rules for some of its pairs, on the device.
class Selection {
 public:
  Selection(const HostBatch& batch, const std::vector<SelectionRule>& rules,
            TestReport& report)
      : batch_(batch),
        rules_(rules),
        report_(report),
        slices_(SlicesOf(batch)),
        kv_heads_(batch.shape.kv_heads),
        tiles_(batch.lists.tiles()),
        pairs_(tiles_ * kv_heads_),
        queries_(batch.queries),
        keys_(batch.keys),
        tables_(batch.page_tables),
        fields_(batch.lists.tile_fields),
        base_(std::vector<std::int32_t>(pairs_, 0)),
        list_of_(pairs_),
        order_(pairs_) {
    std::vector<std::int32_t> first_tiles;
    int most_blocks = 0;
    for (const Slice& slice : slices_) {
      first_tiles.push_back(slice.first_tile);
      most_blocks = std::max(most_blocks, (slice.end + 63) / 64);
      for (int t = slice.first_tile; t < slice.end_tile; ++t) {
        for (int h = 0; h < kv_heads_; ++h) {
          rule_of_.push_back(
              (slice.number + h) % (static_cast<int>(rules.size()) + 1) - 1);
        }
      }
    }
    first_tiles.push_back(tiles_);
    first_tiles_ = DeviceArray<std::int32_t>(first_tiles);
    device_rule_of_ = DeviceArray<std::int32_t>(rule_of_);
    args_.queries = queries_.data();
    args_.query_stride = std::int64_t{batch.heads()} * batch.shape.head_dim;
    args_.heads = batch.heads();
    args_.kv = {keys_.data(),
                nullptr,
                batch.pages,
                kv_heads_,
                batch.shape.head_dim,
                tables_.data(),
                batch.page_table_stride};
    args_.scale = batch.scale;
    args_.tiles = tiles_;
    args_.tile_fields = fields_.data();
    args_.slices = static_cast<int>(slices_.size());
    args_.first_tiles = first_tiles_.data();
    args_.most_blocks = most_blocks + 1;
    args_.rules = rules_.data();
    args_.rule_count = static_cast<int>(rules_.size());
    args_.rule_of = device_rule_of_.data();
    args_.base_list_of = base_.data();
    args_.chosen.base_lists = 1;  // of block 0 as full
    args_.chosen.base_full_blocks = 1;
    std::vector<std::int64_t> offsets(args_.chosen.OffsetsWith(pairs_), -3);
    std::vector<std::int64_t> partial_offsets = offsets;
    offsets[0] = 0, offsets[1] = 1;
    partial_offsets[0] = partial_offsets[1] = 0;
    full_offsets_ = DeviceArray<std::int64_t>(offsets);
    partial_offsets_ = DeviceArray<std::int64_t>(partial_offsets);
    full_blocks_ = DeviceArray<std::int32_t>(std::vector<std::int32_t>(
        args_.chosen.FullBlocksWith(pairs_, args_.most_blocks), -1));
    partial_blocks_ = DeviceArray<std::int32_t>(
        std::vector<std::int32_t>(args_.chosen.PartialBlocksWith(pairs_), -1));
    masks_ = DeviceArray<std::uint64_t>(partial_blocks_.size() * 64);
    args_.chosen.list_of = list_of_.data();
    args_.chosen.full_offsets = full_offsets_.data();
    args_.chosen.full_blocks = full_blocks_.data();
    args_.chosen.partial_offsets = partial_offsets_.data();
    args_.chosen.partial_blocks = partial_blocks_.data();
    args_.chosen.partial_masks = masks_.data();
    args_.chosen.order = order_.data();
  }

  BlockSelectionArgs& args() { return args_; }
  const std::vector<Slice>& slices() const { return slices_; }
  int RuleOf(int pair) const { return rule_of_[pair]; }

  // Runs it, keeps the lists and checks their form. False if nothing more can
  // be said of them.
  bool Run(const LastRowsSelection& selection) {
    order_.Upload(std::vector<std::int32_t>(pairs_, -1));
    const LaunchStatus status = selection.Run(args_, nullptr);
    report_.Expect(status.ok(), "%s", status.message().c_str());
    report_.ExpectOk(cudaDeviceSynchronize(), "choice by the last rows");
    lists_ = list_of_.Download();
    begin_ = full_offsets_.Download();
    blocks_ = full_blocks_.Download();
    const auto own_begin = partial_offsets_.Download();
    const auto own_blocks = partial_blocks_.Download();
    const auto masks = masks_.Download();
    visited_.assign(pairs_, {});
    std::vector<int> lengths(pairs_, 1);
    for (int pair = 0; pair < pairs_; ++pair) {
      if (rule_of_[pair] < 0) {
        report_.Expect(lists_[pair] == 0, "%s: not the base list",
                       Where(pair).c_str());
        continue;
      }
      const int list = 2 + 2 * pair;
      report_.Expect(lists_[pair] == list, "%s: list %d", Where(pair).c_str(),
                     lists_[pair]);
      if (lists_[pair] != list) return false;
      const std::int32_t* f = Fields(pair);
      const int own = (f[3] + f[2] - 1) / 64;
      report_.Expect(own_begin[list] == pair &&
                         own_begin[list + 1] == pair + 1 &&
                         own_blocks[pair] == own,
                     "%s: own block", Where(pair).c_str());
      for (int row = 0; row < f[2]; ++row) {
        const int seen = f[3] % 64 + row + 1;
        report_.Expect(masks[pair * 64 + row] ==
                           (seen == 64 ? ~std::uint64_t{0}
                                       : (std::uint64_t{1} << seen) - 1),
                       "%s: mask of row %d", Where(pair).c_str(), row);
      }
      visited_[pair].resize(own + 1);
      visited_[pair][own] = 1;
      int before = -1;
      for (std::int64_t i = begin_[list]; i < begin_[list + 1]; ++i) {
        const int b = blocks_[i];
        report_.Expect(b > before && b < own, "%s: block %d",
                       Where(pair).c_str(), b);
        if (b < 0 || b >= own) return false;
        before = b;
        visited_[pair][b] = 1;
        ++lengths[pair];
      }
    }
    CheckOrder(lengths);
    return true;
  }

  // Against the rules in double precision. Ways that FlexPrefillRule went are
  // added to `ways`.
  void CheckChoices(std::array<int, 2>* ways) const {
    for (const Slice& slice : slices_) {
      for (int h = 0; h < kv_heads_; ++h) {
        const int rule_number = rule_of_[slice.first_tile * kv_heads_ + h];
        if (rule_number < 0) continue;
        const SelectionRule& rule = rules_[rule_number];
        if (const auto* by_count = std::get_if<VerticalSlashRule>(&rule)) {
          CheckVerticalSlash(*by_count, slice, h);
        } else {
          CheckFlexPrefill(std::get<FlexPrefillRule>(rule), slice, h, ways);
        }
      }
    }
  }

  bool IsEverything(int pair) const {
    return std::count(visited_[pair].begin(), visited_[pair].end(), 1) ==
           static_cast<std::int64_t>(visited_[pair].size());
  }
  const std::vector<char>& Visited(int pair) const { return visited_[pair]; }

  // The same bits once more, and from a CUDA graph.
  void CheckRepeats(const LastRowsSelection& selection) {
    const auto sorted = order_.Download();
    const auto is_same = [&] {
      return list_of_.Download() == lists_ &&
             full_offsets_.Download() == begin_ &&
             full_blocks_.Download() == blocks_ && order_.Download() == sorted;
    };
    report_.Expect(selection.Run(args_, nullptr).ok(), "second run");
    report_.Expect(is_same(), "the same arguments gave other choices");
    full_blocks_.Upload(std::vector<std::int32_t>(full_blocks_.size(), -1));
    order_.Upload(std::vector<std::int32_t>(pairs_, -1));
    list_of_.Upload(std::vector<std::int32_t>(pairs_, -1));
    LaunchGraph graph;
    const bool captured = graph.Capture(
        [&](cudaStream_t s) { return selection.Run(args_, s).ok(); });
    report_.Expect(captured, "capture");
    if (!captured) return;
    graph.Launch();
    report_.Expect(graph.Wait() && is_same(), "a graph gave other choices");
  }

  std::string Where(int pair) const {
    const std::int32_t* f = Fields(pair);
    return "d " + std::to_string(batch_.shape.head_dim) + " group " +
           std::to_string(batch_.shape.group) + " slice " +
           std::to_string(f[0]) + " position " + std::to_string(f[3]) +
           " head " + std::to_string(pair % kv_heads_) + " rule " +
           std::to_string(rule_of_[pair]);
  }

 private:
  const std::int32_t* Fields(int pair) const {
    return batch_.lists.tile_fields.data() + pair / kv_heads_ * 4;
  }

  void CheckVerticalSlash(const VerticalSlashRule& rule, const Slice& slice,
                          int h) const {
    const Sums sums = SumLastRows(batch_, slice, rule.rows, h);
    const Taken columns = TakeLargest(sums.columns, 30, rule.columns);
    const Taken diagonals = TakeLargest(sums.diagonals, 100, rule.diagonals);
    for (int t = slice.first_tile; t < slice.end_tile; ++t) {
      const int pair = t * kv_heads_ + h;
      Check(pair, BlocksOfTile(columns.surely, diagonals.surely, Fields(pair)),
            BlocksOfTile(columns.maybe, diagonals.maybe, Fields(pair)));
    }
  }

  void CheckFlexPrefill(const FlexPrefillRule& rule, const Slice& slice, int h,
                        std::array<int, 2>* ways) const {
    const Sums sums = SumLastRows(batch_, slice, 64, h);
    const MeanScores means(batch_, slice, h);
    const int blocks = (slice.end + 63) / 64;
    const int last_rows = std::min(64, slice.rows);
    const double distance = SqrtJensenShannon(
        means.Of(slice.first_row + slice.rows - last_rows, last_rows, blocks),
        SumBlocks(sums.columns));
    // Of one block nothing differs but rounding, which a root makes large.
    if (rule.mass < 1 && std::abs(distance - rule.divergence) < 1e-3) return;
    const bool is_aware = distance < rule.divergence;
    if (rule.mass < 1) ++(*ways)[is_aware];
    const auto blocks_of = [&](const std::vector<double>& of_tokens) {
      const auto count = [&](double mass) {
        const int least = rule.least_blocks;
        return is_aware
                   ? least
                   : std::max(least, CountOfMass(of_tokens, mass) / 64 + 1);
      };
      const int low = count(rule.mass - kShare);
      const int high = count(rule.mass + kShare);
      const auto sums_of = SumBlocks(of_tokens);
      return Taken{TakeLargest(sums_of, 1, low).surely,
                   TakeLargest(sums_of, 1, high).maybe};
    };
    const Taken keys = blocks_of(sums.columns);
    const Taken distances = blocks_of(sums.diagonals);
    std::vector<std::vector<double>> map;
    std::vector<double> all;
    for (int t = slice.first_tile; is_aware && t < slice.end_tile; ++t) {
      const std::int32_t* f = Fields(t * kv_heads_);
      map.push_back(means.Of(f[1], f[2], (f[3] + f[2] - 1) / 64 + 1));
      all.insert(all.end(), map.back().begin(), map.back().end());
    }
    double least_sure = INFINITY, least_possible = INFINITY;
    if (is_aware) {
      const int low = CountOfMass(all, rule.mass - kShare);
      const int high = CountOfMass(all, rule.mass + kShare);
      std::sort(all.rbegin(), all.rend());
      least_sure = low > 0 ? all[low - 1] * (1 + 2 * kShare) : INFINITY;
      least_possible = all[high - 1] * (1 - 2 * kShare);
    }
    for (int t = slice.first_tile; t < slice.end_tile; ++t) {
      const int pair = t * kv_heads_ + h;
      const int own = static_cast<int>(visited_[pair].size()) - 1;
      std::vector<char> surely(own + 1), maybe(own + 1);
      for (int b = 0; b <= own; ++b) {
        const double score = is_aware ? map[t - slice.first_tile][b] : -1.0;
        const bool is_forced = b == 0 || b == own || rule.mass >= 1;
        surely[b] = is_forced || keys.surely[b] || distances.surely[own - b] ||
                    score >= least_sure;
        maybe[b] = is_forced || keys.maybe[b] || distances.maybe[own - b] ||
                   score >= least_possible;
      }
      Check(pair, surely, maybe);
    }
  }

  void Check(int pair, const std::vector<char>& surely,
             const std::vector<char>& maybe) const {
    for (std::size_t b = 0; b < surely.size(); ++b) {
      const bool is_in = visited_[pair][b] != 0;
      report_.Expect(is_in || !surely[b], "%s: block %zu is left out",
                     Where(pair).c_str(), b);
      report_.Expect(!is_in || maybe[b], "%s: block %zu is listed",
                     Where(pair).c_str(), b);
    }
  }

  void CheckOrder(const std::vector<int>& lengths) const {
    const auto sorted = order_.Download();
    std::vector<char> seen(pairs_);
    for (int i = 0; i < pairs_; ++i) {
      const int pair = sorted[i];
      const bool is_new = pair >= 0 && pair < pairs_ && !seen[pair] &&
                          pair % kv_heads_ == i / tiles_;
      report_.Expect(is_new, "order %d: %d", i, pair);
      if (!is_new) return;
      seen[pair] = 1;
      report_.Expect(i % tiles_ == 0 || lengths[sorted[i - 1]] >= lengths[pair],
                     "order %d: a longer list comes later", i);
    }
  }

  const HostBatch& batch_;
  std::vector<SelectionRule> rules_;
  TestReport& report_;
  std::vector<Slice> slices_;
  int kv_heads_, tiles_, pairs_;
  std::vector<std::int32_t>
      rule_of_;  // [pairs]; of slices and KV heads in turn
  DeviceArray<std::uint16_t> queries_, keys_;
  DeviceArray<std::int32_t> tables_, fields_, base_, list_of_, order_,
      first_tiles_, device_rule_of_, full_blocks_, partial_blocks_;
  DeviceArray<std::int64_t> full_offsets_, partial_offsets_;
  DeviceArray<std::uint64_t> masks_;
  BlockSelectionArgs args_;
  // What Run() left.
  std::vector<std::int32_t> lists_, blocks_;
  std::vector<std::int64_t> begin_;
  std::vector<std::vector<char>> visited_;
};

std::unique_ptr<LastRowsSelection> WithRoom(std::int64_t bytes,
                                            TestReport& report) {
  std::unique_ptr<LastRowsSelection> selection;
  const LaunchStatus status = LastRowsSelection::Create(bytes, &selection);
  report.Expect(status.ok(), "%s", status.message().c_str());
  return selection;
}

void TestShape(const BatchShape& shape, const std::vector<SelectionRule>& rules,
               std::array<int, 2>* ways, TestReport& report) {
  std::mt19937 random(5);
  const HostBatch batch = MakeBatch(shape, random);
  Selection selection(batch, rules, report);
  const auto roomy = WithRoom(1 << 26, report);
  if (!selection.Run(*roomy)) return;
  selection.CheckChoices(ways);
  selection.CheckRepeats(*roomy);
  // Slice by slice.
  const std::int64_t bytes = roomy->BytesForSlice(selection.args());
  if (!selection.Run(*WithRoom(bytes, report))) return;
  selection.CheckChoices(ways);
  const LaunchStatus status =
      WithRoom(bytes - 1, report)->Run(selection.args(), nullptr);
  report.Expect(!status.ok() && status.message().find(std::to_string(bytes)) !=
                                    std::string::npos,
                "too little room: '%s'", status.message().c_str());
}

// Rows that attend to all keys alike: of equal sums the first are taken.
void TestTies(TestReport& report) {
  std::mt19937 random(6);
  HostBatch batch = MakeBatch({64, 2, 2, {{0, 1000}}}, random);
  std::fill(batch.queries.begin(), batch.queries.end(), 0);
  constexpr int kTaken = 64 * 3 + 5;
  Selection selection(batch, {VerticalSlashRule{64, kTaken, 1}}, report);
  if (!selection.Run(*WithRoom(1 << 26, report))) return;
  for (int t = 0; t < batch.lists.tiles(); ++t) {
    for (int h = 0; h < 2; ++h) {
      if (selection.RuleOf(t * 2 + h) < 0) continue;
      const auto& visited = selection.Visited(t * 2 + h);
      for (int b = 0; b <= t; ++b) {
        report.Expect((visited[b] != 0) == (b <= 3 || b == t),
                      "ties: block %d of tile %d", b, t);
      }
    }
  }
}

// A key that is no number: its slice and KV head visit everything.
void TestGarbage(TestReport& report) {
  std::mt19937 random(7);
  HostBatch batch =
      MakeBatch({128, 2, 3, {{0, 900}, {0, 900}, {64, 700}}}, random);
  const std::int64_t page = batch.page_tables[batch.page_table_stride + 4];
  batch.keys[(page * 2 * 64 + 9) * 128 + 77] = kBfloat16Nan;
  Selection selection(batch, {VerticalSlashRule{64, 40, 20}}, report);
  if (!selection.Run(*WithRoom(1 << 26, report))) return;
  int everything = 0, tiles = 0;
  for (const Slice& slice : selection.slices()) {
    for (int t = slice.first_tile; t < slice.end_tile; ++t) {
      for (int h = 0; h < 2; ++h) {
        const int pair = t * 2 + h;
        if (selection.RuleOf(pair) < 0) continue;
        if (slice.number == 1 && h == 0) {
          ++tiles;
          everything += selection.IsEverything(pair);
        } else if (selection.Visited(pair).size() > 8) {
          report.Expect(!selection.IsEverything(pair), "%s: all blocks",
                        selection.Where(pair).c_str());
        }
      }
    }
  }
  report.Expect(tiles > 0 && everything == tiles,
                "%d of %d tiles visit all blocks of keys with a NaN",
                everything, tiles);
}

void TestRefusals(TestReport& report) {
  std::mt19937 random(8);
  const HostBatch batch = MakeBatch({64, 2, 2, {{0, 100}}}, random);
  const auto room = WithRoom(1 << 24, report);
  const auto expect = [&](const SelectionRule& rule, const char* message) {
    Selection selection(batch, {rule}, report);
    const LaunchStatus status = room->Run(selection.args(), nullptr);
    report.Expect(status.message().find(message) != std::string::npos,
                  "'%s' does not say '%s'", status.message().c_str(), message);
  };
  expect(VerticalSlashRule{65, 1, 1}, "rows is 65; must be 1 to 64");
  expect(VerticalSlashRule{64, -1, 1}, "columns is -1");
  expect(VerticalSlashRule{64, 1, -2}, "diagonals is -2");
  expect(FlexPrefillRule{0.0f, 0.1f, 0}, "mass is 0");
  expect(FlexPrefillRule{0.5f, 0.1f, -1}, "least_blocks is -1");
  expect(AntidiagonalRule{}, "rule 0 is of a kind");
}

int RunAll(bool is_short) {
  int device = 0;
  if (cudaGetDevice(&device) != cudaSuccess) {
    std::printf("skipped: no GPU\n");
    return kSkipped;
  }
  TestReport report;
  std::array<int, 2> ways = {};
  for (int width : {64, 128}) {
    for (int group : {1, 2, 3, 4, 8}) {
      const BatchShape shape = {
          width,
          2,
          group,
          {{0, 130}, {0, 1}, {301, 150}, {640, 64}, {777, 3}, {64, 900}}};
      TestShape(shape,
                {VerticalSlashRule{64, 45, 112}, VerticalSlashRule{7, 20, 130},
                 VerticalSlashRule{50, 5000, 3}},
                &ways, report);
      TestShape(shape,
                {FlexPrefillRule{0.5f, 0.0f, 1}, FlexPrefillRule{0.3f, 1.0f, 0},
                 VerticalSlashRule{64, 31, 1}, FlexPrefillRule{1.0f, 0.1f, 0}},
                &ways, report);
      if (is_short) continue;
      const BatchShape longer = {
          width, 3, group, {{0, 2500}, {1984, 100}, {3000, 1}}};
      TestShape(longer,
                {VerticalSlashRule{64, 45, 112}, VerticalSlashRule{7, 20, 130}},
                &ways, report);
      TestShape(
          longer,
          {FlexPrefillRule{0.2f, 0.15f, 1}, FlexPrefillRule{0.6f, 1.0f, 3},
           FlexPrefillRule{0.1f, 0.0f, 0}},
          &ways, report);
    }
  }
  // More sums than a thread block holds in registers.
  if (!is_short) {
    TestShape({64, 2, 1, {{0, 100}, {32900, 70}, {0, 200}}},
              {VerticalSlashRule{64, 300, 130}, FlexPrefillRule{0.05f, 1.0f, 2},
               FlexPrefillRule{0.03f, 0.0f, 0}, VerticalSlashRule{9, 40, 105}},
              &ways, report);
  }
  report.Expect(ways[0] > 0 && ways[1] > 0,
                "of FlexPrefillRule's ways one was never gone: %d, %d", ways[0],
                ways[1]);
  TestTies(report);
  TestGarbage(report);
  TestRefusals(report);
  return report.Finish("last_rows_selection_test");
}

}  // namespace
}  // namespace sparseserve::cuda

int main(int argc, char** argv) {
  return sparseserve::cuda::RunAll(argc > 1 &&
                                   std::strcmp(argv[1], "--short") == 0);
}
