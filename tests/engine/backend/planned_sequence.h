#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <random>
#include <utility>
#include <vector>

#include "engine/attention/attention_plan.h"
#include "engine/backend/backend.h"
#include "engine/pattern/pattern_map.h"
#include "tests/testing/static_rules.h"

namespace sparseserve {

// One sequence of random keys and values, and rows of it that a plan attends:
// through a backend, or one by one in double precision.
class PlannedSequence {
 public:
  struct Shape {
    int heads = 2;
    int kv_heads = 1;
    int head_dim = 16;
  };
  // Rows of one slice.
  struct Part {
    Phase phase = Phase::kPrefill;
    int first_position = 0;
    int rows = 0;
    int prompt_tokens = 0;
  };
  static constexpr int kContext = 333;  // tokens
  // A whole prompt, a chunk that begins and ends inside a block, a decode row,
  // and the end of a prompt.
  static std::vector<Part> MixedParts();

  PlannedSequence(const Shape& shape, float query_scale, uint32_t seed,
                  std::vector<Part> parts = MixedParts());
  PlannedSequence(const PlannedSequence&) = delete;

  int64_t rows() const { return rows_; }
  const Shape& shape() const { return shape_; }

  // The plan of a map, or of one pattern. Borrows from this.
  AttentionPlan Plan(const PatternSpec& pattern,
                     const PatternMap* map = nullptr) const;

  struct Found {
    std::vector<float> output;  // [rows, heads * head_dim]
    std::vector<float> lse;     // [rows, heads]
  };
  // On keys and values that are stored in a dtype. Rows that no tile names are
  // 0, with minus infinity.
  Found Attend(Backend& backend, const AttentionPlan& plan,
               const BlockLayout& layout, DType dtype = DType::kF32);
  // Arguments without a layout and outputs, which stay until the next call.
  AttentionArgs Args(const AttentionPlan& plan, DType dtype = DType::kF32);

  // A row's attention over some keys, as they are drawn or as stored.
  testing::AttendedRow Row(int64_t row, int head,
                           const testing::VisibleKeys& keys,
                           DType dtype = DType::kF32) const;

  // For every row of the plan.
  void ForRows(const AttentionPlan& plan,
               const std::function<void(int64_t row, const testing::RowPlace&)>&
                   body) const;

  // Draws other, larger keys and values where `chosen` says so.
  void Overwrite(const std::function<bool(int position)>& chosen);
  // Makes NaN of a row's queries.
  void PoisonQueries(int64_t row);

 private:
  using KeysAndValues = std::pair<testing::Rows, testing::Rows>;

  int64_t width() const { return int64_t{shape_.heads} * shape_.head_dim; }
  float scale() const;
  float Normal() { return std::normal_distribution<float>()(random_); }
  void Draw(int position, float deviation);
  int64_t SlotOf(int position, int kv_head) const;
  const KeysAndValues& KvOf(int kv_head, DType dtype) const;

  const Shape shape_;
  const std::vector<Part> parts_;
  std::mt19937 random_;
  std::vector<PageId> pages_;
  std::vector<TokenId> tokens_;
  std::vector<StepSlice> slices_;
  std::vector<float> keys_, values_;  // [pages][kv_heads][64][head_dim]
  std::vector<std::byte> stored_keys_, stored_values_;
  std::vector<float> queries_;  // [rows, heads * head_dim]
  int64_t rows_ = 0;
  mutable std::map<std::pair<int, DType>, KeysAndValues> known_;
};

using ExpectedRows = std::vector<testing::AttendedRow>;  // [rows, heads]

// What the rules of the heads' patterns give.
ExpectedRows ByRules(const PlannedSequence& sequence, const AttentionPlan& plan,
                     const std::function<PatternSpec(int head)>& pattern_of,
                     DType dtype = DType::kF32);

// The largest error of a row's output as share of the row's length, and of its
// LSE; NaN counts as infinite.
double WorstError(const PlannedSequence::Found& found,
                  const ExpectedRows& expected);
// Of all outputs together: the length of the error as share of theirs.
double TotalError(const PlannedSequence::Found& found,
                  const ExpectedRows& expected);

}  // namespace sparseserve
