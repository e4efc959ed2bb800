#include "tests/engine/backend/planned_sequence.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "engine/tensor/quant_blocks.h"
#include "gtest/gtest.h"

namespace sparseserve {
namespace {

void Store(const std::vector<float>& from, DType dtype,
           std::vector<std::byte>& to) {
  to.resize(from.size() * BlockBytes(dtype));
  for (size_t i = 0; i < from.size(); ++i) {
    if (dtype == DType::kBF16) {
      reinterpret_cast<uint16_t*>(to.data())[i] = FloatToBFloat16(from[i]);
    } else {
      reinterpret_cast<float*>(to.data())[i] = from[i];
    }
  }
}

}  // namespace

std::vector<PlannedSequence::Part> PlannedSequence::MixedParts() {
  return {{Phase::kPrefill, 0, 97, 97},
          {Phase::kPrefill, 150, 140, 300},
          {Phase::kDecode, 332, 1, 320},
          {Phase::kPrefill, 310, 20, 330}};
}

PlannedSequence::PlannedSequence(const Shape& shape, float query_scale,
                                 uint32_t seed, std::vector<Part> parts)
    : shape_(shape), parts_(std::move(parts)), random_(seed) {
  pages_.resize((kContext + kPageTokens - 1) / kPageTokens);
  std::iota(pages_.begin(), pages_.end(), 0);
  std::shuffle(pages_.begin(), pages_.end(), random_);
  // What no position owns is NaN, as a reused page's memory might be.
  keys_.assign(static_cast<int64_t>(pages_.size()) * kPageTokens *
                   shape_.kv_heads * shape_.head_dim,
               std::numeric_limits<float>::quiet_NaN());
  values_ = keys_;
  for (int position = 0; position < kContext; ++position) Draw(position, 1);
  tokens_.resize(kContext);
  for (const Part& part : parts_) {
    rows_ += part.rows;
    StepSlice slice;
    slice.phase = part.phase;
    slice.first_position = part.first_position;
    slice.tokens = absl::MakeConstSpan(tokens_).first(part.rows);
    slice.prompt = absl::MakeConstSpan(tokens_).first(part.prompt_tokens);
    slice.pages = pages_;
    slices_.push_back(slice);
  }
  queries_.resize(rows_ * width());
  for (float& query : queries_) query = query_scale * Normal();
}

AttentionPlan PlannedSequence::Plan(const PatternSpec& pattern,
                                    const PatternMap* map) const {
  std::vector<PlannedSlice> planned;
  for (const StepSlice& slice : slices_) {
    planned.push_back({&slice, pattern, map});
  }
  AttentionPlan plan({.layers = 1, .kv_heads = shape_.kv_heads});
  plan.Build(planned);
  EXPECT_EQ(plan.layout(0).Validate(), absl::OkStatus());
  return plan;
}

PlannedSequence::Found PlannedSequence::Attend(Backend& backend,
                                               const AttentionPlan& plan,
                                               const BlockLayout& layout,
                                               DType dtype) {
  AttentionArgs args = Args(plan, dtype);
  args.layout = &layout;
  Found found;
  found.output.assign(rows_ * width(), 0.0f);
  found.lse.assign(rows_ * shape_.heads,
                   -std::numeric_limits<float>::infinity());
  args.output = {found.output.data(), rows_, width()};
  args.lse = found.lse.data();
  backend.Attention(args);
  return found;
}

AttentionArgs PlannedSequence::Args(const AttentionPlan& plan, DType dtype) {
  Store(keys_, dtype, stored_keys_);
  Store(values_, dtype, stored_values_);
  AttentionArgs args;
  args.queries = ConstMatrixView(queries_.data(), rows_, width());
  args.heads = shape_.heads;
  args.kv = {stored_keys_.data(),
             stored_values_.data(),
             dtype,
             static_cast<int32_t>(pages_.size()),
             shape_.kv_heads,
             shape_.head_dim};
  args.pages = plan.pages();
  args.scale = scale();
  return args;
}

testing::AttendedRow PlannedSequence::Row(int64_t row, int head,
                                          const testing::VisibleKeys& keys,
                                          DType dtype) const {
  const auto& [k, v] = KvOf(head / (shape_.heads / shape_.kv_heads), dtype);
  const float* from =
      queries_.data() + row * width() + int64_t{head} * shape_.head_dim;
  const std::vector<double> query(from, from + shape_.head_dim);
  return AttendRow(query, k, v, scale(), keys);
}

void PlannedSequence::ForRows(
    const AttentionPlan& plan,
    const std::function<void(int64_t row, const testing::RowPlace&)>& body)
    const {
  for (size_t s = 0; s < parts_.size(); ++s) {
    for (int r = 0; r < parts_[s].rows; ++r) {
      body(plan.first_row(static_cast<int>(s)) + r,
           {parts_[s].first_position + r, parts_[s].phase == Phase::kDecode,
            parts_[s].prompt_tokens});
    }
  }
}

void PlannedSequence::Overwrite(
    const std::function<bool(int position)>& chosen) {
  known_.clear();
  for (int position = 0; position < kContext; ++position) {
    if (chosen(position)) Draw(position, 50);
  }
}

void PlannedSequence::PoisonQueries(int64_t row) {
  std::fill_n(queries_.begin() + row * width(), width(),
              std::numeric_limits<float>::quiet_NaN());
}

float PlannedSequence::scale() const {
  return 1.0f / std::sqrt(static_cast<float>(shape_.head_dim));
}

void PlannedSequence::Draw(int position, float deviation) {
  for (int head = 0; head < shape_.kv_heads; ++head) {
    for (int i = 0; i < shape_.head_dim; ++i) {
      keys_[SlotOf(position, head) + i] = deviation * Normal();
      values_[SlotOf(position, head) + i] = deviation * Normal();
    }
  }
}

int64_t PlannedSequence::SlotOf(int position, int kv_head) const {
  const int64_t page = pages_[position / kPageTokens];
  return ((page * shape_.kv_heads + kv_head) * kPageTokens +
          position % kPageTokens) *
         shape_.head_dim;
}

const PlannedSequence::KeysAndValues& PlannedSequence::KvOf(int kv_head,
                                                            DType dtype) const {
  KeysAndValues& known = known_[{kv_head, dtype}];
  auto& [k, v] = known;
  if (k.count > 0) return known;
  const auto rounded = [&](float value) {
    return dtype == DType::kF32 ? value
                                : BFloat16ToFloat(FloatToBFloat16(value));
  };
  k = v = {kContext, shape_.head_dim, {}};
  for (int position = 0; position < kContext; ++position) {
    const int64_t slot = SlotOf(position, kv_head);
    for (int i = 0; i < shape_.head_dim; ++i) {
      k.values.push_back(rounded(keys_[slot + i]));
      v.values.push_back(rounded(values_[slot + i]));
    }
  }
  return known;
}

ExpectedRows ByRules(const PlannedSequence& sequence, const AttentionPlan& plan,
                     const std::function<PatternSpec(int head)>& pattern_of,
                     DType dtype) {
  const int heads = sequence.shape().heads;
  ExpectedRows expected(sequence.rows() * heads);
  sequence.ForRows(plan, [&](int64_t row, const testing::RowPlace& place) {
    for (int head = 0; head < heads; ++head) {
      expected[row * heads + head] = sequence.Row(
          row, head, testing::StaticRuleKeys(pattern_of(head), place), dtype);
    }
  });
  return expected;
}

double WorstError(const PlannedSequence::Found& found,
                  const ExpectedRows& expected) {
  double worst = 0;
  const auto take = [&](double error) {
    if (!(error <= worst)) worst = std::isnan(error) ? HUGE_VAL : error;
  };
  for (size_t r = 0; r < expected.size(); ++r) {
    const std::vector<double>& wanted = expected[r].output;
    double error = 0, length = 0;
    for (size_t i = 0; i < wanted.size(); ++i) {
      const double difference = found.output[r * wanted.size() + i] - wanted[i];
      error += difference * difference;
      length += wanted[i] * wanted[i];
    }
    if (expected[r].lse == -HUGE_VAL) {
      take(error == 0 && found.lse[r] == -HUGE_VAL ? 0 : HUGE_VAL);
      continue;
    }
    take(std::sqrt(error / length));
    take(std::abs(found.lse[r] - expected[r].lse) /
         std::max(1.0, std::abs(expected[r].lse)));
  }
  return worst;
}

double TotalError(const PlannedSequence::Found& found,
                  const ExpectedRows& expected) {
  double error = 0, length = 0;
  size_t i = 0;
  for (const testing::AttendedRow& row : expected) {
    for (const double wanted : row.output) {
      const double difference = found.output[i++] - wanted;
      error += difference * difference;
      length += wanted * wanted;
    }
  }
  return std::sqrt(error / length);
}

}  // namespace sparseserve
