#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "engine/base/mutex.h"
#include "grpcpp/server.h"
#include "sparseserve/v1/inference_service.grpc.pb.h"
#include "sparseserve/v1/model_service.grpc.pb.h"

namespace sparseserve {

// What a ScriptedServer does with every call. Pieces are sent as they are, so
// that a script can break the rules.
struct Script {
  // Calls that are refused with UNAVAILABLE before the script applies.
  int refusals = 0;
  std::vector<std::string> pieces = {"Grüße", ", ", "Welt 🌍"};
  // After the pieces: waits until the call is cancelled …
  bool hangs = false;
  // … or ends with this status, if it is not OK …
  grpc::Status status;
  // … or else sends the report, unless this is false.
  bool reports = true;
  // Whether the health service says that inference is served.
  bool serves = true;
  // Whether there is a health service.
  bool has_health = true;
};

// A server in this process whose services follow a script. It listens on a Unix
// socket, because retries, health checks and other processes need a connection.
// Thread-safe.
class ScriptedServer {
 public:
  explicit ScriptedServer(Script script);
  ~ScriptedServer();

  const std::string& address() const { return address_; }

  // Of the generating methods, refused ones included.
  int attempts() const;
  v1::GenerateOptions last_options() const;
  // Value of a header of the last generating call, if it was there.
  std::optional<std::string> last_header(const std::string& key) const;
  // Returns once a hanging call was cancelled.
  void WaitForCancellation() const;
  // REQUIRES: the script has health.
  void SetServing(bool serving);

 private:
  class Services;
  std::string folder_;
  std::string address_;
  std::unique_ptr<Services> services_;
  std::unique_ptr<grpc::Server> server_;
};

// UNAVAILABLE with the details that a full queue has.
grpc::Status QueueFull();

// INVALID_ARGUMENT with a field violation for options.sampling.top_p.
grpc::Status BadTopP();

}  // namespace sparseserve
