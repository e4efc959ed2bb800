#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "server/scheduling/caller_quotas.h"
#include "server/scheduling/request.h"
#include "server/security/identity.h"

namespace sparseserve {

// What one caller may do, and what holds for it where its requests do not say.
// What is not listed is not allowed.
struct CallerRule {
  std::string name;  // of quotas, logs and prefix pages
  std::vector<Identity> identities;
  // "package.Service/Method", "package.Service/*" or "*".
  std::vector<std::string> methods;
  std::vector<std::string> models;  // "models/NAME" or "*"
  // In place of the server's own limits, if given.
  std::optional<CallerQuotas::Limits> quota;
  LatencyTarget default_target;  // none named: the server's
  std::optional<int> default_priority;
  int max_priority = kMostPriority;  // more is taken for this

  bool AllowsMethod(std::string_view method) const;
  bool AllowsModel(std::string_view model) const;
};

// Who may do what. Immutable.
class AccessPolicy {
 public:
  // INVALID_ARGUMENT names a caller without a name or identities, and a name or
  // identity that two have.
  static absl::StatusOr<AccessPolicy> Create(std::vector<CallerRule> callers);

  // Null for strangers.
  std::shared_ptr<const CallerRule> Find(const Identity& identity) const;
  int callers() const { return callers_; }

 private:
  int callers_ = 0;
  absl::flat_hash_map<Identity, std::shared_ptr<const CallerRule>> by_identity_;
};

}  // namespace sparseserve
