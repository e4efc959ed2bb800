#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "absl/container/flat_hash_map.h"

namespace sparseserve {

// What each caller has waiting or running, against limits that hold for every
// caller that has none of its own. A caller is known as long as it has
// something. Callers without a name have no limit. Not thread-safe:
// RequestQueue's lock guards it.
class CallerQuotas {
 public:
  struct Limits {  // 0: none
    int max_requests = 0;
    int64_t max_tokens = 0;  // prompts and longest outputs together
  };
  explicit CallerQuotas(Limits limits) : limits_(limits) {}

  // `own` are the limits of a caller that has some, in place of all others'.
  // Whether the caller may have so many tokens more, in one request.
  bool Allows(const std::string& caller, int64_t tokens,
              const std::optional<Limits>& own = std::nullopt) const;
  // False, with nothing taken, if it may not.
  bool Take(const std::string& caller, int64_t tokens,
            const std::optional<Limits>& own = std::nullopt);
  // REQUIRES: taken before, by the same caller with the same limits.
  void GiveBack(const std::string& caller, int64_t tokens,
                const std::optional<Limits>& own = std::nullopt);

 private:
  struct Use {
    int requests = 0;
    int64_t tokens = 0;
  };
  Use With(const std::string& caller, int64_t tokens) const;
  static bool IsWithin(const Use& use, const Limits& limits);
  static bool IsLimited(const std::string& caller, const Limits& limits);

  const Limits limits_;
  absl::flat_hash_map<std::string, Use> uses_;
};

}  // namespace sparseserve
