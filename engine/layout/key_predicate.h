#pragma once

// Which keys of a partial block a query sees, by positions alone. A query at
// position i never sees a key at position j > i, and sees its own unless it
// sees none; what is said below is meant for j <= i.

#include <cstdint>
#include <optional>
#include <variant>

namespace sparseserve {

struct AllKeys {
  friend bool operator==(const AllKeys&, const AllKeys&) = default;
};

// j < sink_tokens || i - j < window_tokens
struct SinkWindowKeys {
  int32_t sink_tokens = 0;
  int32_t window_tokens = 1;  // at least 1
  friend bool operator==(const SinkWindowKeys&,
                         const SinkWindowKeys&) = default;
};

// i - j < stride || (i - j) % stride == 0
struct StridedKeys {
  int32_t stride = 1;  // at least 1
  friend bool operator==(const StridedKeys&, const StridedKeys&) = default;
};

// Positions are cut into periods: a column is j % period in
// [first_column, first_column + columns). Seen are columns, and keys with
// i / period == j / period or, without sees_period, the query's own.
struct ColumnKeys {
  int32_t period = 1;  // at least 1
  int32_t first_column = 0;
  int32_t columns = 1;  // first_column + columns <= period
  bool sees_period = true;
  friend bool operator==(const ColumnKeys&, const ColumnKeys&) = default;
};

// (i - j) % dilation == 0 && (i - j) / dilation < keys
struct DilatedKeys {
  int32_t dilation = 1;  // at least 1
  int32_t keys = 1;      // at least 1
  friend bool operator==(const DilatedKeys&, const DilatedKeys&) = default;
};

// i / chunk_tokens == j / chunk_tokens
struct ChunkKeys {
  int32_t chunk_tokens = 1;  // at least 1
  friend bool operator==(const ChunkKeys&, const ChunkKeys&) = default;
};

struct NoKeys {
  friend bool operator==(const NoKeys&, const NoKeys&) = default;
};

using KeyRule = std::variant<AllKeys, SinkWindowKeys, StridedKeys, ColumnKeys,
                             DilatedKeys, ChunkKeys, NoKeys>;

struct KeyPredicate {
  KeyRule rule;
  // And i - j < window_tokens, as a checkpoint may ask of a layer; 0: no bound.
  int32_t window_tokens = 0;

  // REQUIRES of all below: positions are not negative.

  // The definition. False if key > query.
  bool Sees(int64_t query, int64_t key) const;
  // The same for 64 keys: bit k is key first_key + k.
  uint64_t SeenBits(int64_t query, int64_t first_key) const;
  // The first key that the query sees, if what it sees is every key from there
  // to its own, whatever the query; none for other rules.
  std::optional<int64_t> FirstOfInterval(int64_t query) const;
  // The same within a layer's window too; 0: no bound.
  KeyPredicate Within(int32_t layer_window_tokens) const;
  // Whether causality alone says what is seen.
  bool IsCausality() const {
    return window_tokens == 0 && std::holds_alternative<AllKeys>(rule);
  }

  friend bool operator==(const KeyPredicate&, const KeyPredicate&) = default;
};

}  // namespace sparseserve
