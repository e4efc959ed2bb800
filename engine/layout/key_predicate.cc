#include "engine/layout/key_predicate.h"

#include <algorithm>

namespace sparseserve {
namespace {

constexpr int64_t kBits = 64;

// `bits` moved up. REQUIRES: places >= 0.
uint64_t Shifted(uint64_t bits, int64_t places) {
  return places >= kBits ? 0 : bits << places;
}

// Bits [begin, end), where either may lie outside of 0 ... 64.
uint64_t Interval(int64_t begin, int64_t end) {
  begin = std::max<int64_t>(begin, 0);
  end = std::min(end, kBits);
  if (begin >= end) return 0;
  return (~uint64_t{0} >> (kBits - (end - begin))) << begin;
}

// `run`, and again after every `period` bits.
uint64_t Repeated(uint64_t run, int64_t period) {
  for (int64_t shift = period; shift < kBits; shift *= 2) run |= run << shift;
  return run;
}

// Keys at a multiple of `step` before `query`, and some behind it.
uint64_t Steps(int64_t query, int64_t first_key, int32_t step) {
  if (query < first_key) return 0;
  // Positions fit 32 bits, whose division is faster.
  const auto from = static_cast<uint32_t>(query - first_key);
  return Shifted(Repeated(1, step), from % static_cast<uint32_t>(step));
}

uint64_t Columns(const ColumnKeys& rule, int64_t first_key) {
  const uint64_t runs = Repeated(Interval(0, rule.columns), rule.period);
  const int64_t first = rule.first_column - first_key % rule.period;
  if (first >= 0) return Shifted(runs, first);
  return Interval(first, first + rule.columns) |
         Shifted(runs, first + rule.period);
}

struct SeesRule {
  int64_t query;
  int64_t key;

  bool operator()(const AllKeys&) const { return true; }
  bool operator()(const SinkWindowKeys& rule) const {
    return key < rule.sink_tokens || query - key < rule.window_tokens;
  }
  bool operator()(const StridedKeys& rule) const {
    return query - key < rule.stride || (query - key) % rule.stride == 0;
  }
  bool operator()(const ColumnKeys& rule) const {
    const int64_t column = key % rule.period - rule.first_column;
    return (column >= 0 && column < rule.columns) ||
           (rule.sees_period ? key / rule.period == query / rule.period
                             : key == query);
  }
  bool operator()(const DilatedKeys& rule) const {
    return (query - key) % rule.dilation == 0 &&
           (query - key) / rule.dilation < rule.keys;
  }
  bool operator()(const ChunkKeys& rule) const {
    return key / rule.chunk_tokens == query / rule.chunk_tokens;
  }
  bool operator()(const NoKeys&) const { return false; }
};

// Bits behind the query's are whatever comes out.
struct BitsOfRule {
  int64_t query;
  int64_t first_key;

  // Keys from `first` on.
  uint64_t From(int64_t first) const {
    return Interval(first - first_key, kBits);
  }

  uint64_t operator()(const AllKeys&) const { return ~uint64_t{0}; }
  uint64_t operator()(const SinkWindowKeys& rule) const {
    return Interval(0, rule.sink_tokens - first_key) |
           From(query - rule.window_tokens + 1);
  }
  uint64_t operator()(const StridedKeys& rule) const {
    return From(query - rule.stride + 1) | Steps(query, first_key, rule.stride);
  }
  uint64_t operator()(const ColumnKeys& rule) const {
    const int64_t begin =
        rule.sees_period ? query / rule.period * rule.period : query;
    return Columns(rule, first_key) | From(begin);
  }
  uint64_t operator()(const DilatedKeys& rule) const {
    return From(query - int64_t{rule.dilation} * rule.keys + 1) &
           Steps(query, first_key, rule.dilation);
  }
  uint64_t operator()(const ChunkKeys& rule) const {
    return From(query / rule.chunk_tokens * rule.chunk_tokens);
  }
  uint64_t operator()(const NoKeys&) const { return 0; }
};

}  // namespace

bool KeyPredicate::Sees(int64_t query, int64_t key) const {
  if (key > query) return false;
  if (window_tokens > 0 && query - key >= window_tokens) return false;
  return std::visit(SeesRule{query, key}, rule);
}

uint64_t KeyPredicate::SeenBits(int64_t query, int64_t first_key) const {
  const int64_t begin = window_tokens > 0 ? query - window_tokens + 1 : 0;
  return Interval(begin - first_key, query + 1 - first_key) &
         std::visit(BitsOfRule{query, first_key}, rule);
}

std::optional<int64_t> KeyPredicate::FirstOfInterval(int64_t query) const {
  int64_t first = 0;
  if (const auto* chunk = std::get_if<ChunkKeys>(&rule)) {
    first = query / chunk->chunk_tokens * chunk->chunk_tokens;
  } else if (!std::holds_alternative<AllKeys>(rule)) {
    return std::nullopt;
  }
  if (window_tokens > 0) first = std::max(first, query - window_tokens + 1);
  return first;
}

KeyPredicate KeyPredicate::Within(int32_t layer_window_tokens) const {
  KeyPredicate narrowed = *this;
  if (window_tokens == 0 || layer_window_tokens == 0) {
    narrowed.window_tokens = std::max(window_tokens, layer_window_tokens);
  } else {
    narrowed.window_tokens = std::min(window_tokens, layer_window_tokens);
  }
  return narrowed;
}

}  // namespace sparseserve
