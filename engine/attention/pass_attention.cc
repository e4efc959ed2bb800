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

}  // namespace

PassAttention::PassAttention(Backend& backend, DType kv_dtype)
    : backend_(backend), kv_dtype_(kv_dtype) {
  SPARSESERVE_CHECK(kv_dtype == DType::kF32 || kv_dtype == DType::kBF16);
}

void PassAttention::Run(const AttentionPasses& passes, const Args& args) {
  padded_dim_ = (args.head_dim + 7) / 8 * 8;
  std::fill_n(args.output.data, args.output.rows * args.output.columns, 0.0f);
  token_lse_.assign(int64_t{passes.tokens} * passes.heads, kNothing);
  for (const AttentionPass& pass : passes.passes) {
    Gather(pass, args);
    GatherKeysAndValues(pass, args);
    Attend(pass, args);
    Combine(pass, passes.heads, args);
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
  for (const int32_t token : pass.query_tokens) {
    for (const int32_t head : pass.heads) {
      if (token >= 0) {
        std::copy_n(from.row(token) + int64_t{head} * args.head_dim,
                    args.head_dim, to);
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
  for (int64_t slot = 0; slot < slots; ++slot) {
    const int32_t token = pass.key_tokens[slot];
    if (token < 0) continue;
    for (int64_t h = 0; h < heads; ++h) {
      const int64_t column = int64_t{pass.heads[h]} * args.head_dim;
      const int64_t element = ((slot / kPageTokens * heads + h) * kPageTokens +
                               slot % kPageTokens) *
                              padded_dim_;
      const auto head_of = [&](const ConstMatrixView& matrix) {
        return absl::MakeConstSpan(matrix.row(token) + column, args.head_dim);
      };
      Store(head_of(from.keys), kv_dtype_, element, keys_);
      Store(head_of(from.values), kv_dtype_, element, values_);
    }
  }
}

void PassAttention::Attend(const AttentionPass& pass, const Args& args) {
  const auto heads = static_cast<int32_t>(pass.heads.size());
  const auto slots = static_cast<int64_t>(pass.query_tokens.size());
  const int64_t width = int64_t{heads} * padded_dim_;
  output_.assign(slots * width, 0.0f);
  lse_.assign(slots * heads, kNothing);
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

// Weights of what a token has had and of the slot at hand are shares of one
// denominator, whose logarithm is kept.
void PassAttention::Combine(const AttentionPass& pass, int32_t heads,
                            const Args& args) {
  const auto pass_heads = static_cast<int64_t>(pass.heads.size());
  for (size_t slot = 0; slot < pass.query_tokens.size(); ++slot) {
    const int32_t token = pass.query_tokens[slot];
    if (token < 0) continue;
    for (int64_t h = 0; h < pass_heads; ++h) {
      const int64_t row = static_cast<int64_t>(slot) * pass_heads + h;
      const int32_t head = pass.heads[h];
      const float added = lse_[row];
      if (added == kNothing) continue;
      float& lse = token_lse_[int64_t{token} * heads + head];
      const float maximum = std::max(lse, added);
      const float sum = std::exp(lse - maximum) + std::exp(added - maximum);
      const float share = std::exp(added - maximum) / sum;
      const float* from = output_.data() + row * padded_dim_;
      float* to = args.output.row(token) + int64_t{head} * args.head_dim;
      for (int32_t i = 0; i < args.head_dim; ++i) {
        to[i] = lse == kNothing ? from[i] : to[i] + share * (from[i] - to[i]);
      }
      lse = lse == kNothing ? added : maximum + std::log(sum);
    }
  }
}

}  // namespace sparseserve
