#pragma once

#include <functional>

#include "absl/time/time.h"
#include "grpcpp/generic/async_generic_service.h"
#include "server/rpc/call_access.h"
#include "server/rpc/call_observer.h"

namespace sparseserve {

// Answers calls of methods that no service has, which gRPC alone would refuse
// without a word and without anyone counting it. Reads nothing of them.
class UnknownMethods final : public grpc::CallbackGenericService {
 public:
  struct Dependencies {  // all outlive this
    CallObserver& observer;
    const CallAccess& access;
    std::function<absl::Time()> clock;
  };
  explicit UnknownMethods(Dependencies dependencies);

  grpc::ServerGenericBidiReactor* CreateReactor(
      grpc::GenericCallbackServerContext* context) override;

 private:
  const Dependencies d_;
};

}  // namespace sparseserve
