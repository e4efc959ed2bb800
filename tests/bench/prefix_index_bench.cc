// What the prefix cache costs beside the step that it saves: a pool of 100,000
// pages, all of them cached, 6.4 million tokens. Each turn is a request: its
// prompt is looked up, its run is leased, pages for the rest are leased too,
// for which others are evicted, and entered; then all are given back.

#include <vector>

#include "benchmark/benchmark.h"
#include "engine/kv/page_pool.h"

namespace sparseserve {
namespace {

constexpr int kPages = 100'000;
constexpr int kPromptPages = 32;

// Prompts that have their first `hit` pages in common with number % 64 others.
std::vector<TokenId> Prompt(int64_t number, int hit) {
  std::vector<TokenId> tokens;
  for (int i = 0; i < kPromptPages * kPageTokens; ++i) {
    const int64_t kind = i < hit * kPageTokens ? number % 64 : 64 + number;
    tokens.push_back(static_cast<TokenId>((kind * 7919 + i * 31) % 49152));
  }
  return tokens;
}

void Turn(PagePool& pool, const std::vector<TokenId>& tokens) {
  const PrefixIndex::Run run = pool.index().Find("", tokens, {});
  PageLease lease;
  pool.Share(lease, run.pages);
  pool.Grow(lease, kPromptPages);
  for (int i = static_cast<int>(run.pages.size()); i < kPromptPages; ++i) {
    pool.Enter(
        lease, i, "",
        absl::MakeConstSpan(tokens).subspan(i * kPageTokens, kPageTokens), {});
  }
}

void BM_Turn(benchmark::State& state) {
  const int hit = static_cast<int>(state.range(0));
  PagePool pool(kPages);
  int64_t number = 0;
  while (pool.evicted() == 0) Turn(pool, Prompt(number++, hit));
  for (auto _ : state) {
    state.PauseTiming();
    const std::vector<TokenId> tokens = Prompt(number++, hit);
    state.ResumeTiming();
    Turn(pool, tokens);
  }
  state.counters["per_page"] = benchmark::Counter(
      static_cast<double>(state.iterations()) * kPromptPages,
      benchmark::Counter::kIsRate | benchmark::Counter::kInvert);
  state.counters["cached"] = pool.cached();
}
BENCHMARK(BM_Turn)->ArgName("hit")->Arg(0)->Arg(16)->Arg(31);

// The look-up alone, of prompts that are there.
void BM_Find(benchmark::State& state) {
  PagePool pool(kPages);
  int64_t number = 0;
  while (pool.evicted() == 0) Turn(pool, Prompt(number++, 0));
  int64_t turn = number;
  for (auto _ : state) {
    state.PauseTiming();
    const std::vector<TokenId> tokens = Prompt(number - 1 - ++turn % 3000, 0);
    state.ResumeTiming();
    benchmark::DoNotOptimize(pool.index().Find("", tokens, {}));
  }
}
BENCHMARK(BM_Find);

}  // namespace
}  // namespace sparseserve
