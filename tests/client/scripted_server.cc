#include "tests/client/scripted_server.h"

#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdlib>
#include <map>
#include <utility>

#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"
#include "grpcpp/ext/health_check_service_server_builder_option.h"
#include "grpcpp/health_check_service_interface.h"
#include "grpcpp/server_builder.h"

namespace sparseserve {
namespace {

constexpr char kInferenceService[] = "sparseserve.v1.InferenceService";

grpc::Status WithDetails(
    grpc::StatusCode code, const std::string& message,
    const std::vector<const google::protobuf::Message*>& details) {
  google::rpc::Status status;
  status.set_code(code);
  status.set_message(message);
  for (const auto* detail : details) status.add_details()->PackFrom(*detail);
  return grpc::Status(code, message, status.SerializeAsString());
}

google::rpc::ErrorInfo ErrorInfo(const std::string& reason) {
  google::rpc::ErrorInfo info;
  info.set_reason(reason);
  info.set_domain("sparseserve");
  return info;
}

}  // namespace

grpc::Status QueueFull() {
  google::rpc::ErrorInfo info = ErrorInfo("QUEUE_FULL");
  (*info.mutable_metadata())["limit"] = "256";
  google::rpc::RetryInfo retry;
  retry.mutable_retry_delay()->set_nanos(250'000'000);
  return WithDetails(grpc::StatusCode::UNAVAILABLE, "the queue is full",
                     {&info, &retry});
}

grpc::Status BadTopP() {
  const google::rpc::ErrorInfo info = ErrorInfo("INVALID_FIELD");
  google::rpc::BadRequest bad_request;
  auto* violation = bad_request.add_field_violations();
  violation->set_field("options.sampling.top_p");
  violation->set_description("1.5 is not in (0, 1]");
  return WithDetails(grpc::StatusCode::INVALID_ARGUMENT,
                     "the request has 1 wrong field", {&info, &bad_request});
}

class ScriptedServer::Services : public v1::InferenceService::CallbackService,
                                 public v1::ModelService::CallbackService {
 public:
  explicit Services(Script script)
      : script_(std::move(script)), refusals_left_(script_.refusals) {}

  grpc::ServerUnaryReactor* Generate(grpc::CallbackServerContext* context,
                                     const v1::GenerateRequest* request,
                                     v1::GenerateResponse* response) override {
    auto* reactor = context->DefaultReactor();
    if (Record(*context, request->options())) {
      reactor->Finish(QueueFull());
      return reactor;
    }
    for (const auto& piece : script_.pieces)
      response->mutable_text()->append(piece);
    *response->mutable_report() = Report();
    reactor->Finish(script_.status);
    return reactor;
  }

  grpc::ServerWriteReactor<v1::StreamGenerateResponse>* StreamGenerate(
      grpc::CallbackServerContext* context,
      const v1::StreamGenerateRequest* request) override {
    return new Stream(*this, Record(*context, request->options()));
  }

  grpc::ServerUnaryReactor* Tokenize(grpc::CallbackServerContext* context,
                                     const v1::TokenizeRequest* request,
                                     v1::TokenizeResponse* response) override {
    for (const char c : request->text()) {
      response->add_token_ids(c);
      response->add_pieces(std::string(1, c));
    }
    auto* reactor = context->DefaultReactor();
    reactor->Finish(grpc::Status::OK);
    return reactor;
  }

  grpc::ServerUnaryReactor* Detokenize(
      grpc::CallbackServerContext* context,
      const v1::DetokenizeRequest* request,
      v1::DetokenizeResponse* response) override {
    for (const int id : request->token_ids()) {
      response->mutable_text()->push_back(static_cast<char>(id));
    }
    auto* reactor = context->DefaultReactor();
    reactor->Finish(grpc::Status::OK);
    return reactor;
  }

  // Two models on two pages.
  grpc::ServerUnaryReactor* ListModels(
      grpc::CallbackServerContext* context,
      const v1::ListModelsRequest* request,
      v1::ListModelsResponse* response) override {
    const bool first = request->page_token().empty();
    response->add_models()->set_name(first ? "models/a" : "models/b");
    if (first) response->set_next_page_token("b");
    auto* reactor = context->DefaultReactor();
    reactor->Finish(grpc::Status::OK);
    return reactor;
  }

  grpc::ServerUnaryReactor* GetModel(grpc::CallbackServerContext* context,
                                     const v1::GetModelRequest* request,
                                     v1::GetModelResponse* response) override {
    response->mutable_model()->set_name(request->name());
    auto* reactor = context->DefaultReactor();
    reactor->Finish(request->name() == "models/a"
                        ? grpc::Status::OK
                        : grpc::Status(grpc::StatusCode::NOT_FOUND,
                                       "there is no " + request->name()));
    return reactor;
  }

  int attempts() const {
    const MutexLock lock(mu_);
    return attempts_;
  }

  v1::GenerateOptions last_options() const {
    const MutexLock lock(mu_);
    return last_options_;
  }

  std::optional<std::string> last_header(const std::string& key) const {
    const MutexLock lock(mu_);
    const auto found = last_headers_.find(key);
    if (found == last_headers_.end()) return std::nullopt;
    return found->second;
  }

  void WaitForCancellation() const {
    const MutexLock lock(mu_);
    while (!cancelled_) cancelled_changed_.Wait(mu_);
  }

 private:
  // Writes the script's messages one after the other; deletes itself.
  class Stream : public grpc::ServerWriteReactor<v1::StreamGenerateResponse> {
   public:
    Stream(Services& services, bool refused) : services_(services) {
      if (refused) {
        Finish(QueueFull());
      } else {
        WriteNext();
      }
    }

    void OnWriteDone(bool ok) override {
      if (ok) {
        WriteNext();
      } else {
        Finish(grpc::Status::CANCELLED);
      }
    }

    void OnCancel() override {
      services_.NoteCancellation();
      if (services_.script_.hangs) FinishOnce();
    }

    void OnDone() override { delete this; }

   private:
    void WriteNext() {
      const Script& script = services_.script_;
      if (next_ < script.pieces.size()) {
        message_.mutable_output()->set_text(script.pieces[next_]);
        message_.mutable_output()->clear_token_ids();
        message_.mutable_output()->add_token_ids(static_cast<int>(next_));
        ++next_;
        StartWrite(&message_);
      } else if (script.hangs) {
        FinishOnce();
      } else if (!script.status.ok() || !script.reports) {
        Finish(script.status);
      } else {
        *message_.mutable_report() = services_.Report();
        StartWriteAndFinish(&message_, grpc::WriteOptions(), grpc::Status::OK);
      }
    }

    // A hanging stream ends when both its writes and its caller have: whoever
    // comes second finishes it.
    void FinishOnce() {
      if (ended_.exchange(true)) Finish(grpc::Status::CANCELLED);
    }

    Services& services_;
    size_t next_ = 0;
    std::atomic<bool> ended_ = false;
    v1::StreamGenerateResponse message_;
  };

  // Notes a call; returns whether it is to be refused.
  bool Record(const grpc::CallbackServerContext& context,
              const v1::GenerateOptions& options) {
    const MutexLock lock(mu_);
    ++attempts_;
    last_options_ = options;
    last_headers_.clear();
    for (const auto& [key, value] : context.client_metadata()) {
      last_headers_.emplace(std::string(key.data(), key.size()),
                            std::string(value.data(), value.size()));
    }
    return refusals_left_ > 0 && refusals_left_-- > 0;
  }

  void NoteCancellation() {
    const MutexLock lock(mu_);
    cancelled_ = true;
    cancelled_changed_.NotifyAll();
  }

  v1::GenerationReport Report() const {
    v1::GenerationReport report;
    report.set_request_id("request-7");
    report.set_model("models/a");
    report.set_finish_reason(v1::FINISH_REASON_STOP);
    report.mutable_usage()->set_output_tokens(
        static_cast<int>(script_.pieces.size()));
    report.mutable_attention()->set_plan("dense");
    return report;
  }

  const Script script_;
  mutable Mutex mu_;
  mutable CondVar cancelled_changed_;
  int refusals_left_ ABSL_GUARDED_BY(mu_);
  int attempts_ ABSL_GUARDED_BY(mu_) = 0;
  bool cancelled_ ABSL_GUARDED_BY(mu_) = false;
  v1::GenerateOptions last_options_ ABSL_GUARDED_BY(mu_);
  std::map<std::string, std::string> last_headers_ ABSL_GUARDED_BY(mu_);
};

ScriptedServer::ScriptedServer(Script script) {
  std::string folder = "/tmp/sparseserve-test-XXXXXX";
  if (mkdtemp(folder.data()) == nullptr) std::abort();
  folder_ = folder;
  address_ = "unix:" + folder_ + "/socket";
  const bool serves = script.serves;
  const bool has_health = script.has_health;
  services_ = std::make_unique<Services>(std::move(script));
  grpc::EnableDefaultHealthCheckService(has_health);
  grpc::ServerBuilder builder;
  builder.AddListeningPort(address_, grpc::InsecureServerCredentials());
  builder.RegisterService(
      static_cast<v1::InferenceService::CallbackService*>(services_.get()));
  builder.RegisterService(
      static_cast<v1::ModelService::CallbackService*>(services_.get()));
  server_ = builder.BuildAndStart();
  if (server_ == nullptr) std::abort();
  if (has_health) SetServing(serves);
}

ScriptedServer::~ScriptedServer() {
  // Cancels what still runs.
  server_->Shutdown(std::chrono::system_clock::now());
  server_->Wait();
  unlink((folder_ + "/socket").c_str());
  rmdir(folder_.c_str());
}

int ScriptedServer::attempts() const { return services_->attempts(); }

v1::GenerateOptions ScriptedServer::last_options() const {
  return services_->last_options();
}

std::optional<std::string> ScriptedServer::last_header(
    const std::string& key) const {
  return services_->last_header(key);
}

void ScriptedServer::WaitForCancellation() const {
  services_->WaitForCancellation();
}

void ScriptedServer::SetServing(bool serving) {
  server_->GetHealthCheckService()->SetServingStatus(kInferenceService,
                                                     serving);
}

}  // namespace sparseserve
