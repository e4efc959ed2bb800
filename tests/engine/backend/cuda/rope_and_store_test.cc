// Rotation and storing against a reference in double precision: head widths,
// groups, both orders of pairs, biases and norms, chunks that begin and end
// within pages, padding. Pages that nobody wrote are NaN.

#include "engine/backend/cuda/rope_and_store.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include "tests/engine/backend/cuda/device_array.h"
#include "tests/engine/backend/cuda/row_values.h"
#include "tests/engine/backend/cuda/test_report.h"

namespace sparseserve::cuda {
namespace {

constexpr int kPage = 64;
constexpr float kEpsilon = 1e-3f;

struct Options {
  int head_dim = 64;
  int kv_heads = 1;
  int group = 1;
  RotatedPairs pairs = RotatedPairs::kAdjacent;
  bool rotates = true;
  bool has_bias = false;
  bool has_norms = false;
  bool keeps_sums = true;
};

// Positions from `begin` on of a sequence with pages of its own.
struct Chunk {
  int begin, tokens;
};

// A cache that holds what came before the chunks, and their rows.
struct Batch {
  Options options;
  int heads = 0, width = 0, rows = 0, pages = 0;
  std::vector<std::uint16_t> qkv;
  std::vector<float> bias, query_gain, key_gain, cosines, sines;
  std::vector<std::int32_t> positions;
  std::vector<std::int64_t> slots;
  std::vector<std::uint16_t> keys, values;

  std::int64_t At(std::int64_t slot, int head) const {
    return ((slot / kPage * options.kv_heads + head) * kPage + slot % kPage) *
           options.head_dim;
  }
};

Batch MakeBatch(const Options& options, const std::vector<Chunk>& chunks,
                int padding, std::mt19937& random) {
  Batch batch;
  batch.options = options;
  const int d = options.head_dim;
  batch.heads = options.kv_heads * options.group;
  batch.width = (batch.heads + 2 * options.kv_heads) * d;
  for (const Chunk& chunk : chunks) {
    batch.pages += (chunk.begin + chunk.tokens + kPage - 1) / kPage + 1;
  }
  std::vector<int> order(batch.pages);
  for (int i = 0; i < batch.pages; ++i) order[i] = i;
  std::shuffle(order.begin(), order.end(), random);
  const std::int64_t elements =
      std::int64_t{batch.pages} * options.kv_heads * kPage * d;
  batch.keys.assign(elements, kBfloat16Nan);
  batch.values.assign(elements, kBfloat16Nan);
  int next_page = 0, context = 1;
  for (const Chunk& chunk : chunks) {
    const int end = chunk.begin + chunk.tokens;
    context = std::max(context, end);
    for (int position = 0; position < end; ++position) {
      const std::int64_t slot =
          std::int64_t{order[next_page + position / kPage]} * kPage +
          position % kPage;
      if (position >= chunk.begin) {
        batch.positions.push_back(position);
        batch.slots.push_back(slot);
        continue;
      }
      for (int head = 0; head < options.kv_heads; ++head) {
        for (int i = 0; i < d; ++i) {
          batch.keys[batch.At(slot, head) + i] = ToBfloat16(
              static_cast<float>(static_cast<int>(random() % 2001) - 1000) /
              300);
          batch.values[batch.At(slot, head) + i] = ToBfloat16(1.5f);
        }
      }
      // As a page is left when it was opened.
      for (std::int64_t behind = slot + 1;
           position == chunk.begin - 1 && behind % kPage != 0; ++behind) {
        for (int head = 0; head < options.kv_heads; ++head) {
          std::fill_n(batch.values.begin() + batch.At(behind, head), d, 0);
        }
      }
    }
    next_page += (end + kPage - 1) / kPage;
  }
  for (int i = 0; i < padding; ++i) {
    batch.positions.push_back(-1);
    batch.slots.push_back(-1);
  }
  batch.rows = static_cast<int>(batch.slots.size());
  batch.qkv =
      RandomBfloat16s(std::int64_t{batch.rows} * batch.width, 1, random);
  batch.bias = RandomFloats(batch.width, 1, random);
  batch.query_gain = RandomFloats(d, 1, random);
  batch.key_gain = RandomFloats(d, 1, random);
  for (int position = 0; position < context; ++position) {
    for (int i = 0; i < d / 2; ++i) {
      const double angle = position * std::pow(10000.0, -2.0 * i / d);
      batch.cosines.push_back(static_cast<float>(std::cos(angle)));
      batch.sines.push_back(static_cast<float>(std::sin(angle)));
    }
  }
  return batch;
}

struct ReferenceHead {
  std::vector<double> values, magnitudes;
};

// `head`: of the row's, queries, keys and values.
ReferenceHead ReferenceOf(const Batch& batch, int row, int head) {
  const Options& options = batch.options;
  const int d = options.head_dim;
  std::vector<double> x(d);
  for (int i = 0; i < d; ++i) {
    x[i] =
        FromBfloat16(batch.qkv[std::int64_t{row} * batch.width + head * d + i]);
    if (options.has_bias) x[i] += batch.bias[head * d + i];
  }
  const bool is_value = head >= batch.heads + options.kv_heads;
  if (options.has_norms && !is_value) {
    double sum = 0;
    for (double value : x) sum += value * value;
    const auto& gain = head < batch.heads ? batch.query_gain : batch.key_gain;
    for (int i = 0; i < d; ++i) {
      x[i] *= gain[i] / std::sqrt(sum / d + double{kEpsilon});
    }
  }
  ReferenceHead reference{x, std::vector<double>(d)};
  for (int i = 0; i < d; ++i) {
    reference.magnitudes[i] = std::abs(x[i]) + (options.has_bias ? 8 : 0);
  }
  if (!options.rotates || is_value) return reference;
  for (int i = 0; i < d / 2; ++i) {
    const bool adjacent = options.pairs == RotatedPairs::kAdjacent;
    const int a = adjacent ? 2 * i : i, b = adjacent ? 2 * i + 1 : i + d / 2;
    const std::int64_t at = std::int64_t{batch.positions[row]} * (d / 2) + i;
    const double cosine = batch.cosines[at], sine = batch.sines[at];
    reference.values[a] = x[a] * cosine - x[b] * sine;
    reference.values[b] = x[a] * sine + x[b] * cosine;
    reference.magnitudes[a] = reference.magnitudes[b] =
        std::abs(x[a]) + std::abs(x[b]) + (options.has_bias ? 8 : 0);
  }
  return reference;
}

class RopeAndStoreTest {
 public:
  explicit RopeAndStoreTest(TestReport& report) : report_(report) {}

  void MatchesReference(const Options& options,
                        const std::vector<Chunk>& chunks, int padding,
                        bool pages_have_one_row) {
    const Batch batch = MakeBatch(options, chunks, padding, random_);
    const std::string name =
        "d" + std::to_string(options.head_dim) + " kv_heads " +
        std::to_string(options.kv_heads) + " group " +
        std::to_string(options.group) + " rows " + std::to_string(batch.rows) +
        (options.pairs == RotatedPairs::kHalves ? " halves" : " adjacent") +
        (options.has_bias ? " bias" : "") +
        (options.has_norms ? " norms" : "") +
        (pages_have_one_row ? " one row a page" : "");
    const DeviceArray<std::uint16_t> qkv(batch.qkv), keys(batch.keys),
        values(batch.values);
    const DeviceArray<float> bias(batch.bias), query_gain(batch.query_gain),
        key_gain(batch.key_gain), cosines(batch.cosines), sines(batch.sines);
    const DeviceArray<std::int32_t> positions(batch.positions);
    const DeviceArray<std::int64_t> slots(batch.slots);
    const std::int64_t heads = std::int64_t{batch.pages} * options.kv_heads;
    const DeviceArray<std::uint16_t> bounds(
        std::vector<std::uint16_t>(heads * 2 * options.head_dim, kBfloat16Nan));
    const DeviceArray<float> means(
        std::vector<float>(heads * options.head_dim, -77.0f));
    RopeRowsArgs args;
    args.rows = batch.rows;
    args.qkv = qkv.data();
    args.qkv_stride = batch.width;
    args.heads = batch.heads;
    args.bias = options.has_bias ? bias.data() : nullptr;
    args.query_gain = options.has_norms ? query_gain.data() : nullptr;
    args.key_gain = options.has_norms ? key_gain.data() : nullptr;
    args.norm_epsilon = kEpsilon;
    args.positions = positions.data();
    args.kv_slots = slots.data();
    args.pages_have_one_row = pages_have_one_row;
    args.pairs = options.pairs;
    args.cosines = options.rotates ? cosines.data() : nullptr;
    args.sines = options.rotates ? sines.data() : nullptr;
    args.kv = {keys.data(),
               values.data(),
               batch.pages,
               options.kv_heads,
               options.head_dim,
               options.keeps_sums ? bounds.data() : nullptr,
               options.keeps_sums ? means.data() : nullptr};
    const LaunchStatus status = LaunchRopeAndStore(args, nullptr);
    report_.Expect(status.ok(), "%s: %s", name.c_str(),
                   status.message().c_str());
    report_.ExpectOk(cudaDeviceSynchronize(), name.c_str());
    const auto stored_keys = keys.Download(), stored_values = values.Download();
    CompareRows(batch, name, qkv.Download(), stored_keys, stored_values);
    ComparePages(batch, name, stored_keys, stored_values, bounds.Download(),
                 means.Download());
  }

  void RefusesByName() {
    const DeviceArray<float> room(1024);
    const auto refuses = [&](const char* name, const auto& change) {
      RopeRowsArgs args;
      args.rows = 1;
      args.qkv = room.data();
      args.qkv_stride = 192;
      args.heads = 1;
      args.kv_slots = reinterpret_cast<const std::int64_t*>(room.data());
      args.kv = {room.data(), room.data(), 1, 1, 64, nullptr, nullptr};
      change(args);
      const LaunchStatus status = LaunchRopeAndStore(args, nullptr);
      report_.Expect(status.message().find(name) != std::string::npos,
                     "%s is not named: %s", name, status.message().c_str());
    };
    refuses("rows is -1", [](auto& args) { args.rows = -1; });
    refuses("head_dim is 72", [](auto& args) { args.kv.head_dim = 72; });
    refuses("head_dim is 16", [](auto& args) { args.kv.head_dim = 16; });
    refuses("head_dim is 272", [](auto& args) { args.kv.head_dim = 272; });
    refuses("kv_heads is 0", [](auto& args) { args.kv.kv_heads = 0; });
    refuses("heads is 0", [](auto& args) { args.heads = 0; });
    refuses("pages is 0", [](auto& args) { args.kv.pages = 0; });
    refuses("qkv_stride is 184", [](auto& args) { args.qkv_stride = 184; });
    refuses("keys", [](auto& args) { args.kv.keys = nullptr; });
    refuses("kv_slots", [](auto& args) { args.kv_slots = nullptr; });
    refuses("positions",
            [&](auto& args) { args.cosines = args.sines = room.data(); });
    refuses("key_gain", [&](auto& args) { args.query_gain = room.data(); });
    refuses("bias", [&](auto& args) { args.bias = room.data() + 1; });
  }

 private:
  void CompareRows(const Batch& batch, const std::string& name,
                   const std::vector<std::uint16_t>& qkv,
                   const std::vector<std::uint16_t>& keys,
                   const std::vector<std::uint16_t>& values) {
    const int d = batch.options.head_dim;
    long wrong = 0;
    for (int row = 0; row < batch.rows; ++row) {
      const std::int64_t slot = batch.slots[row];
      if (slot < 0) {
        const std::int64_t at = std::int64_t{row} * batch.width;
        wrong += !std::equal(qkv.begin() + at, qkv.begin() + at + batch.width,
                             batch.qkv.begin() + at);
        continue;
      }
      for (int head = 0; head < batch.width / d; ++head) {
        const int kv_head = head - batch.heads;
        const std::uint16_t* const actual =
            kv_head < 0 ? &qkv[std::int64_t{row} * batch.width + head * d]
            : kv_head < batch.options.kv_heads
                ? &keys[batch.At(slot, kv_head)]
                : &values[batch.At(slot, kv_head - batch.options.kv_heads)];
        const ReferenceHead expected = ReferenceOf(batch, row, head);
        for (int i = 0; i < d; ++i) {
          wrong += !IsNearBfloat16(FromBfloat16(actual[i]), expected.values[i],
                                   expected.magnitudes[i]);
        }
      }
    }
    report_.Expect(wrong == 0, "%s: %ld elements wrong", name.c_str(), wrong);
  }

  // Whatever was not to be written has its bits; sums are of stored keys.
  void ComparePages(const Batch& batch, const std::string& name,
                    const std::vector<std::uint16_t>& keys,
                    const std::vector<std::uint16_t>& values,
                    const std::vector<std::uint16_t>& bounds,
                    const std::vector<float>& means) {
    const int d = batch.options.head_dim;
    std::vector<char> is_stored(std::int64_t{batch.pages} * kPage, 0);
    for (std::int64_t slot : batch.slots) {
      if (slot >= 0) is_stored[slot] = 1;
    }
    long changed = 0, unclean = 0, wrong = 0;
    for (int page = 0; page < batch.pages; ++page) {
      const std::int64_t first = std::int64_t{page} * kPage;
      const bool opened = is_stored[first];
      const bool filled = batch.options.keeps_sums && is_stored[first + 63];
      for (int head = 0; head < batch.options.kv_heads; ++head) {
        for (std::int64_t slot = first; slot < first + kPage; ++slot) {
          if (is_stored[slot]) continue;
          for (std::int64_t i = batch.At(slot, head);
               i < batch.At(slot, head) + d; ++i) {
            changed += keys[i] != batch.keys[i];
            if (opened) {
              unclean += values[i] != 0;
            } else {
              changed += values[i] != batch.values[i];
            }
          }
        }
        const std::int64_t at =
            std::int64_t{page} * batch.options.kv_heads + head;
        for (int i = 0; i < d; ++i) {
          const std::uint16_t most = bounds[at * 2 * d + i];
          const std::uint16_t least = bounds[(at * 2 + 1) * d + i];
          const float mean = means[at * d + i];
          if (!filled) {
            wrong +=
                most != kBfloat16Nan || least != kBfloat16Nan || mean != -77.0f;
            continue;
          }
          float greatest = -INFINITY, smallest = INFINITY;
          double sum = 0, magnitude = 0;
          for (std::int64_t slot = first; slot < first + kPage; ++slot) {
            const float key = FromBfloat16(keys[batch.At(slot, head) + i]);
            greatest = std::max(greatest, key);
            smallest = std::min(smallest, key);
            sum += key;
            magnitude += std::abs(key);
          }
          wrong += FromBfloat16(most) != greatest ||
                   FromBfloat16(least) != smallest ||
                   !IsNearFloat(mean, sum / kPage, magnitude / kPage);
        }
      }
    }
    report_.Expect(changed == 0, "%s: %ld elements changed", name.c_str(),
                   changed);
    report_.Expect(unclean == 0, "%s: %ld values behind the last are not 0",
                   name.c_str(), unclean);
    report_.Expect(wrong == 0, "%s: %ld bounds or means wrong", name.c_str(),
                   wrong);
  }

  TestReport& report_;
  std::mt19937 random_{20261201};
};

void RunAll(RopeAndStoreTest& test) {
  const std::vector<Chunk> decodes = {{63, 1},  {0, 1}, {64, 1},
                                      {127, 1}, {5, 1}, {62, 1}};
  const std::vector<Chunk> chunks = {{0, 1},    {0, 63},  {0, 64}, {0, 65},
                                     {40, 100}, {63, 1},  {63, 2}, {64, 128},
                                     {100, 28}, {100, 27}};
  for (int head_dim : {32, 48, 64, 80, 96, 128, 144, 256}) {
    for (int group : {1, 3, 4, 8}) {
      Options options;
      options.head_dim = head_dim;
      options.kv_heads = group == 8 ? 1 : 2;
      options.group = group;
      for (RotatedPairs pairs :
           {RotatedPairs::kAdjacent, RotatedPairs::kHalves}) {
        options.pairs = pairs;
        options.has_bias = pairs == RotatedPairs::kHalves;
        options.has_norms = group % 2 == 0;
        test.MatchesReference(options, decodes, 2, true);
        test.MatchesReference(options, chunks, 1, false);
      }
    }
  }
  Options plain;
  plain.rotates = plain.keeps_sums = false;
  test.MatchesReference(plain, chunks, 0, false);
  plain.head_dim = 128;
  plain.has_bias = plain.has_norms = true;
  test.MatchesReference(plain, {{0, 1}}, 0, true);
  plain.rotates = true;
  plain.group = 71;
  test.MatchesReference(plain, {{17, 70}}, 0, false);
  test.RefusesByName();
}

}  // namespace
}  // namespace sparseserve::cuda

int main() {
  using namespace sparseserve::cuda;
  if (!HasHopper()) return kSkipped;
  TestReport report;
  RopeAndStoreTest test(report);
  RunAll(test);
  return report.Finish("rope_and_store_test");
}
