// Choices of blocks on a GPU against the rules in double precision. A choice
// has to be one that the rule makes of scores within the stated rounding of
// the reference's; --short leaves out the larger shapes.

#include <cuda_runtime_api.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <random>
#include <string>
#include <variant>
#include <vector>

#include "engine/backend/cuda/block_selection.h"
#include "engine/backend/cuda/decode_selection.h"
#include "tests/engine/backend/cuda/attention_batch.h"
#include "tests/engine/backend/cuda/bfloat16_bits.h"
#include "tests/engine/backend/cuda/decode_batch.h"
#include "tests/engine/backend/cuda/test_report.h"

namespace sparseserve::cuda {
namespace {

// ---- Sequences that decode: PageBoundRule.

struct PageRule {
  int blocks, first, last;
};

std::vector<std::uint16_t> BoundsOf(const HostDecodeBatch& batch) {
  const int width = batch.shape.head_dim, kv_heads = batch.shape.kv_heads;
  std::vector<std::uint16_t> bounds(
      std::int64_t{batch.pages} * kv_heads * 2 * width, kBfloat16Nan);
  for (int s = 0; s < batch.sequences(); ++s) {
    for (int b = 0; b < batch.shape.lengths[s] / 64; ++b) {
      const std::int64_t page =
          batch.page_tables[s * batch.page_table_stride + b];
      for (int head = 0; head < kv_heads; ++head) {
        const std::int64_t at = page * kv_heads + head;
        for (int i = 0; i < width; ++i) {
          float greatest = -INFINITY, least = INFINITY;
          for (int k = 0; k < 64; ++k) {
            const float key =
                FromBfloat16(batch.keys[(at * 64 + k) * width + i]);
            greatest = std::max(greatest, key);
            least = std::min(least, key);
          }
          bounds[at * 2 * width + i] = ToBfloat16(greatest);
          bounds[(at * 2 + 1) * width + i] = ToBfloat16(least);
        }
      }
    }
  }
  return bounds;
}

// The score, and the sum of what it adds up without signs.
std::pair<double, double> PageScore(const HostDecodeBatch& batch,
                                    const std::vector<std::uint16_t>& bounds,
                                    int sequence, int kv_head, int block) {
  const int width = batch.shape.head_dim, group = batch.shape.group;
  const std::int64_t page =
      batch.page_tables[sequence * batch.page_table_stride + block];
  const std::uint16_t* of_page =
      bounds.data() + (page * batch.shape.kv_heads + kv_head) * 2 * width;
  double score = 0, size = 0;
  for (int h = 0; h < group; ++h) {
    for (int i = 0; i < width; ++i) {
      const double q = FromBfloat16(
          batch.queries[(sequence * batch.heads() + kv_head * group + h) *
                            std::int64_t{width} +
                        i]);
      const double term = std::max(q * FromBfloat16(of_page[i]),
                                   q * FromBfloat16(of_page[width + i]));
      score += term;
      size += std::abs(q) * (std::abs(FromBfloat16(of_page[i])) +
                             std::abs(FromBfloat16(of_page[width + i])));
    }
  }
  return {score, size};
}

void TestDecode(const DecodeShape& shape, bool equal_scores,
                TestReport& report) {
  std::mt19937 random(7);
  HostDecodeBatch batch = MakeDecodeBatch(shape, random);
  if (equal_scores) {
    std::fill(batch.queries.begin(), batch.queries.end(), 0);
  }
  const auto bounds = BoundsOf(batch);
  const int kv_heads = shape.kv_heads, pairs = batch.sequences() * kv_heads;
  const int most_blocks = static_cast<int>(batch.page_table_stride) + 2;
  std::vector<std::int32_t> rules;
  for (int pair = 0; pair < pairs; ++pair) {
    const int kind = pair % 5;
    rules.insert(rules.end(), {kind == 3 ? kNoRule : 1 + pair * 3 % 11,
                               kind == 1 ? 3 : 0, kind == 2 ? 4 : 1, 0});
  }
  const DeviceArray<std::uint16_t> queries(batch.queries), keys(batch.keys),
      values(batch.values), device_bounds(bounds);
  DeviceArray<std::int32_t> tables(batch.page_tables), lengths(shape.lengths),
      device_rules(rules), counts(std::vector<std::int32_t>(pairs, -7)),
      blocks(std::vector<std::int32_t>(3 + pairs * most_blocks, -5));
  DeviceArray<std::int64_t> offsets(std::vector<std::int64_t>(pairs, -9));
  DecodeSelectionArgs args;
  args.sequences = batch.sequences();
  args.queries = queries.data();
  args.query_stride = std::int64_t{batch.heads()} * shape.head_dim;
  args.heads = batch.heads();
  args.kv = {keys.data(),
             values.data(),
             batch.pages,
             kv_heads,
             shape.head_dim,
             tables.data(),
             batch.page_table_stride};
  args.lengths = lengths.data();
  args.key_bounds = device_bounds.data();
  args.most_blocks = most_blocks;
  args.rules = device_rules.data();
  args.choice = {counts.data(), offsets.data(), blocks.data(), 3};
  std::unique_ptr<DecodeSelection> selection;
  report.Expect(DecodeSelection::Create(pairs * most_blocks, &selection).ok(),
                "create");
  const LaunchStatus status = selection->Run(args, nullptr);
  report.Expect(status.ok(), "%s", status.message().c_str());
  report.ExpectOk(cudaDeviceSynchronize(), "choice of pages");
  const auto got_counts = counts.Download(), got = blocks.Download();
  const auto got_offsets = offsets.Download();
  for (int pair = 0; pair < pairs; ++pair) {
    const PageRule rule = {rules[pair * 4], rules[pair * 4 + 1],
                           rules[pair * 4 + 2]};
    if (rule.blocks < 0) {
      report.Expect(got_counts[pair] == -7 && got_offsets[pair] == -9,
                    "pair %d without a rule was written", pair);
      continue;
    }
    const int sequence = pair / kv_heads;
    const int n = (shape.lengths[sequence] + 63) / 64;
    if (n <= rule.blocks) {
      report.Expect(got_counts[pair] == (n == 0 ? 0 : kAllBlocks),
                    "pair %d: count %d of all", pair, got_counts[pair]);
      continue;
    }
    report.Expect(got_offsets[pair] == 3 + std::int64_t{pair} * most_blocks,
                  "pair %d: offset", pair);
    const int forced_first = std::clamp(rule.first, 1, n);
    const int forced_last = std::clamp(rule.last, 1, n);
    const int forced = std::min(forced_first + forced_last, n);
    const int count = std::max(rule.blocks, forced);
    report.Expect(got_counts[pair] == count, "pair %d: %d blocks, not %d", pair,
                  got_counts[pair], count);
    if (got_counts[pair] != count) continue;
    std::vector<int> in(n);
    int before = -1;
    for (int i = 0; i < count; ++i) {
      const int b = got[got_offsets[pair] + i];
      report.Expect(b > before && b < n, "pair %d: block %d", pair, b);
      if (b < 0 || b >= n) return;
      before = b;
      in[b] = 1;
    }
    // Of the worst that was chosen and the best that was not.
    double worst = INFINITY, best = -INFINITY, rounding = 0;
    int last_in = -1, first_out = n;
    for (int b = 0; b < n; ++b) {
      if (b < forced_first || b >= n - forced_last) {
        report.Expect(in[b], "pair %d: forced block %d is left out", pair, b);
        continue;
      }
      const auto [score, size] =
          PageScore(batch, bounds, sequence, pair % kv_heads, b);
      rounding = std::max(rounding, size * 1e-6 * shape.group);
      if (in[b]) {
        worst = std::min(worst, score);
        last_in = b;
      } else {
        best = std::max(best, score);
        first_out = std::min(first_out, b);
      }
    }
    report.Expect(worst >= best - rounding,
                  "pair %d: chose %g, left out %g, rounding %g", pair, worst,
                  best, rounding);
    report.Expect(!equal_scores || last_in < first_out,
                  "pair %d: ties: took %d, not %d", pair, last_in, first_out);
  }
  report.Expect(selection->Run(args, nullptr).ok(), "second run");
  report.Expect(blocks.Download() == got && counts.Download() == got_counts,
                "the same arguments gave other choices");

  // Two blocks more: kept lists get them, once.
  std::vector<int> longer = shape.lengths;
  for (int& length : longer) length += length > 0 ? 128 : 0;
  lengths.Upload(longer);
  report.Expect(selection->Extend(args, nullptr).ok(), "extend");
  for (int pair = 0; pair < pairs; ++pair) {
    if (rules[pair * 4] >= 0) rules[pair * 4] = kKeepChoice;
  }
  device_rules.Upload(rules);
  report.Expect(selection->Run(args, nullptr).ok(), "keep");
  report.ExpectOk(cudaDeviceSynchronize(), "longer lists");
  const auto long_counts = counts.Download(), long_blocks = blocks.Download();
  for (int pair = 0; pair < pairs; ++pair) {
    if (got_counts[pair] <= 0) {
      report.Expect(long_counts[pair] == got_counts[pair],
                    "pair %d: count changed", pair);
      continue;
    }
    const std::int32_t* list = long_blocks.data() + got_offsets[pair];
    const int n = (shape.lengths[pair / kv_heads] + 63) / 64;
    const int count = got_counts[pair];
    report.Expect(
        long_counts[pair] == count + 2 && list[count] == n &&
            list[count + 1] == n + 1 &&
            std::equal(list, list + count, got.data() + got_offsets[pair]),
        "pair %d: a kept list is not what it was and two more", pair);
  }
}

// ---- Tiles of prefill.

double QueryAt(const HostBatch& batch, std::int64_t row, int head, int i) {
  return FromBfloat16(batch.queries[(row * batch.heads() + head) *
                                        std::int64_t{batch.shape.head_dim} +
                                    i]);
}
double KeyAt(const HostBatch& batch, int slice, int kv_head, int position,
             int i) {
  const std::int64_t page =
      batch.page_tables[slice * batch.page_table_stride + position / 64];
  return FromBfloat16(
      batch
          .keys[((page * batch.shape.kv_heads + kv_head) * 64 + position % 64) *
                    batch.shape.head_dim +
                i]);
}

struct Scored {
  std::vector<double> scores;
  std::vector<char> forced;
  bool all = false;
  double near_gate = INFINITY;  // how near a similarity is to the gate
};

void AddSoftmax(const std::vector<double>& logits, std::vector<double>& to,
                int group) {
  double maximum = -INFINITY, sum = 0;
  for (double x : logits) maximum = std::max(maximum, x);
  if (maximum == -INFINITY) return;
  for (double x : logits) sum += std::exp(x - maximum);
  for (std::size_t i = 0; i < logits.size(); ++i) {
    to[i / group] += std::exp(logits[i] - maximum) / sum;
  }
}

Scored Score(const HostBatch& batch, const AntidiagonalRule& rule, int tile,
             int kv_head) {
  const std::int32_t* f = batch.lists.tile_fields.data() + tile * 4;
  const int slice = f[0], row = f[1], rows = f[2], position = f[3];
  const int last = position + rows - 1, stride = rule.stride;
  const int width = batch.shape.head_dim;
  Scored scored;
  scored.scores.resize(last / 64 + 1);
  scored.forced.resize(last / 64 + 1);
  for (int h = 0; h < batch.shape.group; ++h) {
    for (int t = position / stride; t <= last / stride; ++t) {
      std::vector<double> logits;
      for (int u = 0; u <= t; ++u) {
        double sum = 0;
        for (int s = 0; s < stride; ++s) {
          const int q = t * stride + stride - 1 - s, k = u * stride + s;
          if (q < position || q > last || k > last) continue;
          for (int i = 0; i < width; ++i) {
            sum += QueryAt(batch, row + q - position,
                           kv_head * batch.shape.group + h, i) *
                   KeyAt(batch, slice, kv_head, k, i);
          }
        }
        logits.push_back(sum * batch.scale / stride);
      }
      AddSoftmax(logits, scored.scores, 64 / stride);
    }
  }
  return scored;
}

// The mean of rows, and their similarity.
template <class At>
double Pool(int count, int width, const At& at, std::vector<double>& mean) {
  mean.assign(width, 0);
  std::vector<double> unit(width);
  for (int r = 0; r < count; ++r) {
    double square = 0;
    for (int i = 0; i < width; ++i) square += at(r, i) * at(r, i);
    for (int i = 0; i < width; ++i) {
      mean[i] += at(r, i) / count;
      if (square > 0) unit[i] += at(r, i) / std::sqrt(square) / count;
    }
  }
  double similarity = 0;
  for (double x : unit) similarity += x * x;
  return similarity;
}

Scored Score(const HostBatch& batch, const SimilarityRule& rule, int tile,
             int kv_head) {
  const std::int32_t* f = batch.lists.tile_fields.data() + tile * 4;
  const int slice = f[0], row = f[1], rows = f[2], last = f[3] + rows - 1;
  const int width = batch.shape.head_dim, blocks = last / 64 + 1;
  Scored scored;
  scored.scores.resize(blocks);
  scored.forced.resize(blocks);
  std::vector<std::vector<double>> keys(blocks);
  const auto gate = [&](double similarity) {
    if (rule.similarity > -1) {
      scored.near_gate =
          std::min(scored.near_gate, std::abs(similarity - rule.similarity));
    }
    return similarity < rule.similarity;
  };
  for (int b = 0; b < blocks; ++b) {
    scored.forced[b] = gate(Pool(
        std::min(64, last + 1 - b * 64), width,
        [&](int r, int i) {
          return KeyAt(batch, slice, kv_head, b * 64 + r, i);
        },
        keys[b]));
  }
  for (int h = 0; h < batch.shape.group; ++h) {
    std::vector<double> query, logits(blocks, -INFINITY);
    scored.all |= gate(Pool(
        rows, width,
        [&](int r, int i) {
          return QueryAt(batch, row + r, kv_head * batch.shape.group + h, i);
        },
        query));
    for (int b = 0; b < blocks; ++b) {
      if (scored.forced[b]) continue;
      double sum = 0;
      for (int i = 0; i < width; ++i) sum += query[i] * keys[b][i];
      logits[b] = sum * batch.scale;
    }
    AddSoftmax(logits, scored.scores, 1);
  }
  return scored;
}

// Whether the rule may choose `in`, if its scores are within a share of 3e-4
// of the reference's: exponentials of single-precision scores of this size.
void ExpectMass(Scored scored, double mass, const std::vector<char>& in,
                const std::string& where, TestReport& report) {
  const int n = static_cast<int>(in.size());
  scored.forced[0] = scored.forced[n - 1] = 1;
  if (scored.near_gate < 1e-4) return;
  constexpr double kShare = 3e-4;
  double total = 0, chosen = 0, worst = INFINITY, best = -INFINITY;
  bool complete = true;
  for (int b = 0; b < n; ++b) {
    total += scored.scores[b];
    if (in[b]) chosen += scored.scores[b];
    complete = complete && in[b];
    if (scored.forced[b]) {
      report.Expect(in[b], "%s: forced block %d is left out", where.c_str(), b);
    } else if (in[b]) {
      worst = std::min(worst, scored.scores[b]);
    } else {
      best = std::max(best, scored.scores[b]);
    }
  }
  if (scored.all || mass >= 1) {
    report.Expect(complete, "%s: not all blocks", where.c_str());
    return;
  }
  report.Expect(worst >= best * (1 - 2 * kShare), "%s: chose %g, left out %g",
                where.c_str(), worst, best);
  report.Expect(chosen >= total * (mass - kShare), "%s: mass %g of %g",
                where.c_str(), chosen, total);
  report.Expect(worst == INFINITY || chosen - worst <= total * (mass + kShare),
                "%s: without its worst block still %g of %g", where.c_str(),
                chosen - worst, total);
}

void TestPrefill(PrefillKernel kernel, const BatchShape& shape,
                 const std::vector<SelectionRule>& rules,
                 std::int64_t workspace, bool keeps_means, TestReport& report) {
  std::mt19937 random(3);
  const HostBatch batch = MakeBatch(shape, random);
  const int kv_heads = shape.kv_heads, tiles = batch.lists.tiles();
  const int pairs = tiles * kv_heads;
  std::vector<std::int32_t> first_tiles, rule_of, base_list_of(pairs, 0);
  int most_blocks = 0;
  for (int t = 0; t < tiles; ++t) {
    const std::int32_t* f = batch.lists.tile_fields.data() + t * 4;
    if (t == 0 || f[-4] != f[0]) first_tiles.push_back(t);
    most_blocks = std::max(most_blocks, (f[3] + f[2] - 1) / 64 + 1);
    for (int h = 0; h < kv_heads; ++h) {
      rule_of.push_back((f[0] + h) % (static_cast<int>(rules.size()) + 1) - 1);
    }
  }
  first_tiles.push_back(tiles);
  const DeviceArray<std::uint16_t> queries(batch.queries), keys(batch.keys),
      values(batch.values);
  const DeviceArray<std::int32_t> tables(batch.page_tables),
      fields(batch.lists.tile_fields), device_first(first_tiles),
      device_rule_of(rule_of), device_base(base_list_of);
  const DeviceArray<float> means(MeanKeys(batch));
  BlockSelectionArgs args;
  if (keeps_means) args.mean_keys = means.data();
  args.queries = queries.data();
  args.query_stride = std::int64_t{batch.heads()} * shape.head_dim;
  args.heads = batch.heads();
  args.kv = {keys.data(),
             values.data(),
             batch.pages,
             kv_heads,
             shape.head_dim,
             tables.data(),
             batch.page_table_stride};
  args.scale = batch.scale;
  args.tiles = tiles;
  args.tile_fields = fields.data();
  args.slices = static_cast<int>(first_tiles.size()) - 1;
  args.first_tiles = device_first.data();
  args.most_blocks = most_blocks;
  args.rules = rules.data();
  args.rule_count = static_cast<int>(rules.size());
  args.rule_of = device_rule_of.data();
  args.base_list_of = device_base.data();
  args.chosen.base_lists = 1;  // of block 0 as full
  args.chosen.base_full_blocks = 1;
  std::vector<std::int64_t> offsets(args.chosen.OffsetsWith(pairs), -3);
  std::vector<std::int64_t> partial_offsets = offsets;
  offsets[0] = 0, offsets[1] = 1;
  partial_offsets[0] = partial_offsets[1] = 0;
  DeviceArray<std::int64_t> full_offsets(offsets), partial(partial_offsets);
  DeviceArray<std::int32_t> list_of(pairs), order(pairs),
      full_blocks(args.chosen.FullBlocksWith(pairs, most_blocks)),
      partial_blocks(args.chosen.PartialBlocksWith(pairs));
  full_blocks.Upload(std::vector<std::int32_t>(full_blocks.size(), 0));
  args.chosen.list_of = list_of.data();
  args.chosen.full_offsets = full_offsets.data();
  args.chosen.full_blocks = full_blocks.data();
  args.chosen.partial_offsets = partial.data();
  args.chosen.partial_blocks = partial_blocks.data();
  args.chosen.order = order.data();
  std::unique_ptr<BlockSelection> selection;
  report.Expect(BlockSelection::Create(kernel, workspace, &selection).ok(),
                "create");
  const LaunchStatus status = selection->Run(args, nullptr);
  report.Expect(status.ok(), "%s", status.message().c_str());
  report.ExpectOk(cudaDeviceSynchronize(), "choice of blocks");
  const auto lists = list_of.Download(), blocks = full_blocks.Download();
  const auto own_blocks = partial_blocks.Download(), sorted = order.Download();
  const auto begin = full_offsets.Download();
  std::vector<int> lengths(pairs);
  for (int pair = 0; pair < pairs; ++pair) {
    const int tile = pair / kv_heads;
    const std::string where =
        (kernel == PrefillKernel::kHopper ? "Hopper, d " : "d ") +
        std::to_string(shape.head_dim) + " group " +
        std::to_string(shape.group) + " tile " + std::to_string(tile) +
        " head " + std::to_string(pair % kv_heads) + " rule " +
        std::to_string(rule_of[pair]);
    if (rule_of[pair] < 0) {
      report.Expect(lists[pair] == 0, "%s: not the base list", where.c_str());
      lengths[pair] = 1;
      continue;
    }
    report.Expect(lists[pair] == 2 + 2 * pair, "%s: list %d", where.c_str(),
                  lists[pair]);
    if (lists[pair] != 2 + 2 * pair) return;
    const std::int32_t* f = batch.lists.tile_fields.data() + tile * 4;
    const int own = (f[3] + f[2] - 1) / 64;
    report.Expect(own_blocks[pair] == own, "%s: own block", where.c_str());
    std::vector<char> in(own + 1);
    in[own] = 1;
    int before = -1;
    lengths[pair] = 1;
    for (std::int64_t i = begin[lists[pair]]; i < begin[lists[pair] + 1]; ++i) {
      const int b = blocks[i];
      report.Expect(b > before && b < own, "%s: block %d", where.c_str(), b);
      if (b < 0 || b >= own) return;
      before = b;
      in[b] = 1;
      ++lengths[pair];
    }
    const SelectionRule& rule = rules[rule_of[pair]];
    if (const auto* a = std::get_if<AntidiagonalRule>(&rule)) {
      ExpectMass(Score(batch, *a, tile, pair % kv_heads), a->mass, in, where,
                 report);
    } else {
      const auto& s = std::get<SimilarityRule>(rule);
      ExpectMass(Score(batch, s, tile, pair % kv_heads), s.mass, in, where,
                 report);
    }
  }
  std::vector<char> seen(pairs);
  for (int i = 0; i < pairs; ++i) {
    report.Expect(sorted[i] >= 0 && sorted[i] < pairs && !seen[sorted[i]] &&
                      sorted[i] % kv_heads == i / tiles,
                  "order %d", i);
    if (sorted[i] < 0 || sorted[i] >= pairs) return;
    seen[sorted[i]] = 1;
    report.Expect(
        i % tiles == 0 || lengths[sorted[i - 1]] >= lengths[sorted[i]],
        "order %d: a longer list comes later", i);
  }
  report.Expect(selection->Run(args, nullptr).ok(), "second run");
  report.Expect(full_blocks.Download() == blocks &&
                    full_offsets.Download() == begin &&
                    order.Download() == sorted,
                "the same arguments gave other choices");
}

void TestAllPrefill(PrefillKernel kernel, bool is_short, TestReport& report) {
  for (int width : {64, 128}) {
    for (int group : {1, 3, 4, 8}) {
      const BatchShape shape = {
          width, 2, group, {{0, 130}, {0, 1}, {301, 150}, {64, 64}, {777, 3}}};
      // Small enough for several rounds of tiles.
      TestPrefill(kernel, shape,
                  {AntidiagonalRule{8, 0.8f}, SimilarityRule{-1.0f, 0.7f}},
                  200000, group == 4, report);
      if (is_short) continue;
      TestPrefill(kernel, shape,
                  {AntidiagonalRule{16, 0.9f}, SimilarityRule{0.015f, 0.8f},
                   AntidiagonalRule{2, 0.5f}, AntidiagonalRule{64, 1.0f}},
                  1 << 24, true, report);
    }
  }
  if (is_short) return;
  // More columns and rows than products have at once.
  for (int group : {1, 4, 6}) {
    TestPrefill(kernel, {64, 1, group, {{4090, 1200}, {37, 20}}},
                {AntidiagonalRule{16, 0.9f}}, 1 << 24, false, report);
  }
  TestPrefill(kernel, {128, 2, 4, {{30, 1400}, {1000, 600}, {9, 100}}},
              {AntidiagonalRule{32, 0.8f}, AntidiagonalRule{4, 0.95f}}, 1 << 24,
              false, report);
}

int RunAll(bool is_short) {
  int device = 0;
  if (cudaGetDevice(&device) != cudaSuccess) {
    std::printf("skipped: no GPU\n");
    return kSkipped;
  }
  TestReport report;
  for (int width : {64, 128}) {
    for (int group : {1, 3, 4, 8}) {
      const std::vector<int> lengths = {1, 64,   65,   700,
                                        0, 1300, 2047, is_short ? 100 : 20000};
      TestDecode({width, 2, group, lengths}, false, report);
      if (group == 4) TestDecode({width, 3, group, lengths}, true, report);
    }
  }
  std::unique_ptr<BlockSelection> best;
  report.Expect(BlockSelection::Create(1 << 20, &best).ok(), "create");
  if (best == nullptr) return report.Finish("selection_test");
  TestAllPrefill(PrefillKernel::kPortable, is_short, report);
  if (best->kernel() != PrefillKernel::kPortable) {
    TestAllPrefill(best->kernel(), is_short, report);
  }
  return report.Finish("selection_test");
}

}  // namespace
}  // namespace sparseserve::cuda

int main(int argc, char** argv) {
  return sparseserve::cuda::RunAll(argc > 1 &&
                                   std::strcmp(argv[1], "--short") == 0);
}
