#include "engine/kv/kv_cache.h"

#include <unistd.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <fstream>
#include <memory>
#include <vector>

#include "engine/backend/create_backend.h"
#include "engine/step.h"
#include "gtest/gtest.h"

namespace sparseserve {
namespace {

const KvCache::Shape kShape = {
    .layers = 3, .kv_heads = 2, .head_dim = 8, .dtype = DType::kBF16};

TEST(KvCacheTest, PageHoldsKeysAndValuesOfAllLayers) {
  EXPECT_EQ(KvCache::PageBytes(kShape), 3 * 2 * 2 * kPageTokens * 8 * 2);
}

TEST(KvCacheTest, LayersLieSideBySideAndFillTheMemory) {
  const auto backend = CreateBackend({.threads = 1});
  ASSERT_TRUE(backend.ok()) << backend.status();
  const auto cache = KvCache::Create(**backend, kShape, 5);
  ASSERT_TRUE(cache.ok()) << cache.status();
  EXPECT_EQ(cache->bytes(), 5 * KvCache::PageBytes(kShape));
  const int64_t side = int64_t{5} * 2 * kPageTokens * 8 * 2;
  std::byte* expected = cache->Layer(0).keys;
  for (int layer = 0; layer < 3; ++layer) {
    const KvLayerView view = cache->Layer(layer);
    EXPECT_EQ(view.keys, expected);
    EXPECT_EQ(view.values, expected + side);
    EXPECT_EQ(view.pages, 5);
    EXPECT_EQ(view.kv_heads, 2);
    EXPECT_EQ(view.head_dim, 8);
    EXPECT_EQ(view.dtype, DType::kBF16);
    expected += 2 * side;
  }
}

TEST(KvCacheTest, BoundsOfKeysLieBehindAllLayersAndCount) {
  const auto backend = CreateBackend({.threads = 1});
  ASSERT_TRUE(backend.ok()) << backend.status();
  KvCache::Shape shape = kShape;
  shape.bounds_keys = true;
  const int64_t page = 3 * 2 * 2 * kPageTokens * 8 * 2;
  EXPECT_EQ(KvCache::PageBytes(shape), page + page / kPageTokens);
  const auto plain = KvCache::Create(**backend, kShape, 5);
  EXPECT_EQ(plain->Layer(0).key_bounds, nullptr);
  const auto cache = KvCache::Create(**backend, shape, 5);
  ASSERT_TRUE(cache.ok()) << cache.status();
  EXPECT_EQ(cache->bytes(), 5 * KvCache::PageBytes(shape));
  std::byte* expected = cache->Layer(0).keys + 5 * page;
  for (int layer = 0; layer < 3; ++layer) {
    const KvLayerView view = cache->Layer(layer);
    EXPECT_EQ(view.keys, cache->Layer(0).keys + layer * 5 * page / 3);
    EXPECT_EQ(view.key_bounds, expected);
    expected += 5 * 2 * 2 * 8 * 2;
  }
  EXPECT_EQ(expected, cache->Layer(0).keys + cache->bytes());
}

TEST(KvCacheTest, LayersWithFewerHeadsTakeLess) {
  const auto backend = CreateBackend({.threads = 1});
  ASSERT_TRUE(backend.ok()) << backend.status();
  KvCache::Shape shape = kShape;
  shape.layer_kv_heads = {1, 0, 2};
  shape.bounds_keys = true;
  const int64_t head = int64_t{kPageTokens} * 8 * 2;
  const int64_t bound = 2 * 8 * 2;
  EXPECT_EQ(KvCache::PageBytes(shape), 3 * (2 * head + bound));
  const auto cache = KvCache::Create(**backend, shape, 5);
  ASSERT_TRUE(cache.ok()) << cache.status();
  EXPECT_EQ(cache->bytes(), 5 * KvCache::PageBytes(shape));
  std::byte* const begin = cache->Layer(0).keys;
  EXPECT_EQ(cache->Layer(0).values, begin + 5 * head);
  EXPECT_EQ(cache->Layer(1).kv_heads, 0);
  EXPECT_EQ(cache->Layer(2).kv_heads, 2);
  EXPECT_EQ(cache->Layer(2).keys, begin + 5 * 2 * head);
  EXPECT_EQ(cache->Layer(2).values, begin + 5 * 4 * head);
  EXPECT_EQ(cache->Layer(2).key_bounds, begin + 5 * (6 * head + bound));
}

TEST(KvCacheTest, CopyOfAPageIsAllOfItAndNothingElse) {
  const auto backend = CreateBackend({.threads = 1});
  ASSERT_TRUE(backend.ok()) << backend.status();
  KvCache::Shape shape = kShape;
  shape.bounds_keys = true;
  const auto cache = KvCache::Create(**backend, shape, 5);
  ASSERT_TRUE(cache.ok()) << cache.status();
  // Bytes of keys, values and bounds, by page.
  constexpr int64_t kSide = 2 * kPageTokens * 8 * 2;
  constexpr int64_t kBounds = 2 * 2 * 8 * 2;
  std::vector<std::byte> bytes(cache->bytes());
  for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = std::byte(i * 7 / 3);
  std::byte* const memory = cache->Layer(0).keys;
  (*backend)->Upload(bytes.data(), cache->bytes(), memory);
  cache->CopyPage(1, 3, **backend);

  std::vector<std::byte> wanted = bytes;
  for (int side = 0; side < 6; ++side) {
    const auto first = bytes.begin() + side * 5 * kSide;
    std::copy_n(first + kSide, kSide, wanted.begin() + (side * 5 + 3) * kSide);
  }
  for (int layer = 0; layer < 3; ++layer) {
    const int64_t first = 6 * 5 * kSide + layer * 5 * kBounds;
    std::copy_n(bytes.begin() + first + kBounds, kBounds,
                wanted.begin() + first + 3 * kBounds);
  }
  std::vector<std::byte> found(cache->bytes());
  (*backend)->Download(memory, cache->bytes(), found.data());
  EXPECT_TRUE(found == wanted);
}

// Memory that this process has touched.
int64_t ResidentBytes() {
  std::ifstream statm("/proc/self/statm");
  int64_t total_pages = 0, resident_pages = 0;
  statm >> total_pages >> resident_pages;
  return resident_pages * sysconf(_SC_PAGESIZE);
}

TEST(KvCacheTest, CpuCacheTakesMemoryOnlyAsItFills) {
  const auto backend = CreateBackend({.threads = 1});
  ASSERT_TRUE(backend.ok()) << backend.status();
  if ((*backend)->device().name != "cpu") GTEST_SKIP() << "device memory";
  constexpr int64_t kBytes = int64_t{256} << 20;
  const int64_t before = ResidentBytes();
  const auto cache = KvCache::Create(
      **backend, kShape,
      static_cast<int32_t>(kBytes / KvCache::PageBytes(kShape)));
  ASSERT_TRUE(cache.ok()) << cache.status();
  EXPECT_LT(ResidentBytes() - before, kBytes / 4);
}

}  // namespace
}  // namespace sparseserve
