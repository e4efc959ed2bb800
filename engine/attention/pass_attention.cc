#include "engine/attention/pass_attention.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "engine/base/check.h"
#include "engine/tensor/quant_blocks.h"

namespace sparseserve {
namespace {

constexpr float kNothing = -std::numeric_limits<float>::infinity();

void Store(absl::Span<const float> from, DType dtype, int64_t element,
           std::vector<std::byte>& to) {
  if (dtype == DType::kF32) {
    std::copy(from.begin(), from.end(),
              reinterpret_cast<float*>(to.data()) + element);
    return;
  }
  auto* rounded = reinterpret_cast<uint16_t*>(to.data()) + element;
  for (const float value : from) *rounded++ = FloatToBFloat16(value);
}

// The mean of some tokens' rows, from a column on.
void MeanOf(const ConstMatrixView& matrix, absl::Span<const int32_t> tokens,
            int64_t column, absl::Span<float> mean) {
  if (tokens.size() == 1) {
    std::copy_n(matrix.row(tokens[0]) + column, mean.size(), mean.begin());
    return;
  }
  for (float& value : mean) {
    double sum = 0;
    for (const int32_t token : tokens) sum += matrix.row(token)[column];
    value = static_cast<float>(sum / static_cast<double>(tokens.size()));
    ++column;
  }
}

}  // namespace

PassAttention::PassAttention(Backend& backend, DType kv_dtype)
    : backend_(backend), kv_dtype_(kv_dtype) {
  SPARSESERVE_CHECK(kv_dtype == DType::kF32 || kv_dtype == DType::kBF16);
}

void PassAttention::Run(const AttentionPasses& passes, const Args& args) {
  padded_dim_ = (args.head_dim + 7) / 8 * 8;
  std::fill_n(args.output.row(0), args.output.rows * args.output.columns, 0.0f);
  token_lse_.assign(int64_t{passes.tokens} * passes.heads, kNothing);
  if (passes.combiner == PassCombiner::kMean) {
    token_slots_.assign(token_lse_.size(), 0);
  }
  for (const AttentionPass& pass : passes.passes) {
    Gather(pass, args);
    GatherKeysAndValues(pass, args);
    Attend(pass, args);
    Combine(pass, passes, args);
  }
  if (args.lse != nullptr) {
    std::copy(token_lse_.begin(), token_lse_.end(), args.lse);
  }
}

void PassAttention::Gather(const AttentionPass& pass, const Args& args) {
  const ConstMatrixView& from = args.projections[pass.projection].queries;
  queries_.assign(pass.query_tokens.size() * pass.heads.size() * padded_dim_,
                  0.0f);
  float* to = queries_.data();
  for (size_t slot = 0; slot < pass.query_tokens.size(); ++slot) {
    const auto tokens = pass.QueriesIn(static_cast<int64_t>(slot));
    for (const int32_t head : pass.heads) {
      if (!tokens.empty()) {
        MeanOf(from, tokens, int64_t{head} * args.head_dim,
               absl::MakeSpan(to, args.head_dim));
      }
      to += padded_dim_;
    }
  }
}

void PassAttention::GatherKeysAndValues(const AttentionPass& pass,
                                        const Args& args) {
  const PassProjection& from = args.projections[pass.projection];
  const auto heads = static_cast<int64_t>(pass.heads.size());
  const auto slots = static_cast<int64_t>(pass.key_tokens.size());
  pages_.resize(AlignedSlots(slots) / kPageTokens);
  std::iota(pages_.begin(), pages_.end(), 0);
  const int64_t bytes =
      AlignedSlots(slots) * heads * padded_dim_ * BlockBytes(kv_dtype_);
  keys_.assign(bytes, std::byte{0});
  values_.assign(bytes, std::byte{0});
  std::vector<float> mean(args.head_dim);
  for (int64_t slot = 0; slot < slots; ++slot) {
    const absl::Span<const int32_t> tokens = pass.KeysIn(slot);
    if (tokens.empty()) continue;
    for (int64_t h = 0; h < heads; ++h) {
      const int64_t column = int64_t{pass.heads[h]} * args.head_dim;
      const int64_t element = ((slot / kPageTokens * heads + h) * kPageTokens +
                               slot % kPageTokens) *
                              padded_dim_;
      MeanOf(from.keys, tokens, column, absl::MakeSpan(mean));
      Store(mean, kv_dtype_, element, keys_);
      MeanOf(from.values, tokens, column, absl::MakeSpan(mean));
      Store(mean, kv_dtype_, element, values_);
    }
  }
}

void PassAttention::Attend(const AttentionPass& pass, const Args& args) {
  const auto heads = static_cast<int32_t>(pass.heads.size());
  const auto slots = static_cast<int64_t>(pass.query_tokens.size());
  const int64_t width = int64_t{heads} * padded_dim_;
  output_.assign(slots * width, 0.0f);
  lse_.assign(slots * heads, kNothing);
  if (pass.layout.tiles.empty()) return;
  const absl::Span<const PageId> pages = pages_;
  AttentionArgs attention;
  attention.queries = ConstMatrixView(queries_.data(), slots, width);
  attention.heads = heads;
  attention.kv = {keys_.data(), values_.data(),
                  kv_dtype_,    static_cast<int32_t>(pages_.size()),
                  heads,        padded_dim_};
  attention.pages = absl::MakeConstSpan(&pages, 1);
  attention.layout = &pass.layout;
  attention.groups = {.prefill_rows = slots};
  attention.scale = args.scale;
  attention.output = {output_.data(), slots, width};
  attention.lse = lse_.data();
  backend_.Attention(attention);
}

void PassAttention::Combine(const AttentionPass& pass,
                            const AttentionPasses& passes, const Args& args) {
  const auto pass_heads = static_cast<int64_t>(pass.heads.size());
  for (size_t slot = 0; slot < pass.query_tokens.size(); ++slot) {
    for (const int32_t token : pass.QueriesIn(static_cast<int64_t>(slot))) {
      for (int64_t h = 0; h < pass_heads; ++h) {
        const int64_t row = static_cast<int64_t>(slot) * pass_heads + h;
        const int32_t head = pass.heads[h];
        const float share = TakeIn(int64_t{token} * passes.heads + head,
                                   lse_[row], passes.combiner);
        if (share == 0) continue;
        const float* from = output_.data() + row * padded_dim_;
        float* to = args.output.row(token) + int64_t{head} * args.head_dim;
        for (int32_t i = 0; i < args.head_dim; ++i) {
          const float value = lse_[row] == kNothing ? 0.0f : from[i];
          to[i] += share * (value - to[i]);
        }
      }
    }
  }
}

// Weights of what a token has had and of the slot at hand are shares of one
// denominator, whose logarithm is kept; in a mean all slots' shares are alike.
float PassAttention::TakeIn(int64_t at, float added, PassCombiner combiner) {
  float& lse = token_lse_[at];
  float share = 0;
  if (added != kNothing) {
    const float maximum = std::max(lse, added);
    const float sum = std::exp(lse - maximum) + std::exp(added - maximum);
    share = std::exp(added - maximum) / sum;
    lse = maximum + std::log(sum);
  }
  if (combiner == PassCombiner::kMean) {
    share = 1 / static_cast<float>(++token_slots_[at]);
  }
  return share;
}

}  // namespace sparseserve
