#include "server/rpc/unknown_methods.h"

#include <utility>

#include "server/rpc/incoming_call.h"
#include "server/rpc/status_details.h"

namespace sparseserve {
namespace {

// Of a name that a caller made up, in the log.
constexpr size_t kMaxNameBytes = 128;

// Deletes itself when gRPC is done with it.
class UnknownCall final : public grpc::ServerGenericBidiReactor {
 public:
  UnknownCall(grpc::GenericCallbackServerContext& context, CallRecord record,
              CallObserver& observer)
      : record_(std::move(record)),
        // Strangers learn nothing of what there is.
        status_(record_.access.ok() ? MethodNotFound(context.method())
                                    : record_.access),
        observer_(observer) {
    observer_.Started(record_);
    Finish(EndStatus(status_, record_, context));
  }

  void OnDone() override {
    observer_.Finished(record_, status_);
    delete this;
  }

 private:
  const CallRecord record_;
  const absl::Status status_;
  CallObserver& observer_;
};

}  // namespace

UnknownMethods::UnknownMethods(Dependencies dependencies)
    : d_(std::move(dependencies)) {}

grpc::ServerGenericBidiReactor* UnknownMethods::CreateReactor(
    grpc::GenericCallbackServerContext* context) {
  CallRecord record =
      RecordOf(*context, Excerpt(context->method(), kMaxNameBytes), d_.clock());
  record.access = d_.access.Check(*context, record);
  return new UnknownCall(*context, std::move(record), d_.observer);
}

}  // namespace sparseserve
