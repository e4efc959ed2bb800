#pragma once

#include <functional>
#include <string>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "grpcpp/security/auth_context.h"
#include "grpcpp/server_context.h"
#include "server/metrics/metrics.h"
#include "server/rpc/call_record.h"
#include "server/security/access_control.h"

namespace sparseserve {

// What the peer's certificate says, if TLS has verified one.
PeerCertificate CertificateOf(const grpc::AuthContext* context);

// The door that every call comes through: finds out who calls and whether they
// may, before anything of the request is read. Thread-safe.
class CallAccess {
 public:
  struct Dependencies {  // all outlive this
    const AccessControl& control;
    Metrics& metrics;
    std::function<absl::Time()> wall_clock;  // tokens' times are by it
    // Of metadata: names the callers that prove nothing, for quotas alone.
    std::string caller_key;
  };
  explicit CallAccess(Dependencies dependencies);

  // Fills the record's `identity`, `caller` and `rule`. UNAUTHENTICATED /
  // NO_CREDENTIAL or PERMISSION_DENIED / NOT_ALLOWED, counted; also if the
  // record names a model that the caller may not use.
  absl::Status Check(const grpc::CallbackServerContext& context,
                     CallRecord& record) const;

 private:
  const Dependencies d_;
};

}  // namespace sparseserve
