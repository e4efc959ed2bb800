#include "server/server.h"

#include <algorithm>
#include <iterator>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

#include "engine/base/status_macros.h"
#include "engine/base/str_cat.h"
#include "server/console/console.h"
#include "server/metrics/metrics.h"
#include "server/policy/named_plan.h"
#include "server/readiness.h"
#include "server/rpc/access_policy_conversion.h"
#include "server/rpc/admin_service.h"
#include "server/rpc/admission.h"
#include "server/rpc/call_access.h"
#include "server/rpc/call_observer.h"
#include "server/rpc/grpc_server.h"
#include "server/rpc/health_server.h"
#include "server/rpc/inference_service.h"
#include "server/rpc/load_reporter.h"
#include "server/rpc/method_names.h"
#include "server/rpc/model_service.h"
#include "server/rpc/orca_service.h"
#include "server/rpc/request_id.h"
#include "server/rpc/request_log.h"
#include "server/rpc/served_model.h"
#include "server/rpc/tokenizer_worker.h"
#include "server/rpc/unknown_methods.h"
#include "server/scheduling/request_queue.h"
#include "server/scheduling/scheduler.h"
#include "server/scheduling/serving_loop.h"
#include "server/security/security_files.h"
#include "server/server_clock.h"
#include "server/warm_up.h"

namespace sparseserve {
namespace {

// What ended calls may take to leave the sockets, and their lines to be read.
constexpr absl::Duration kFlushTime = absl::Milliseconds(200);

constexpr int kDefaultMaxOutputTokens = 256;

Metrics::Options MetricsOptions(const Server::Options& options,
                                const Engine& engine) {
  const ModelInfo& info = engine.info();
  Metrics::Options result;
  result.model_name = options.model_name;
  result.version = options.version;
  result.revision = options.revision;
  result.grpc_version = GrpcVersion();
  result.simd = engine.simd();
  result.device = engine.device();
  result.dtype = info.weight_dtype;
  result.architecture = info.architecture;
  result.attention_backend = engine.device();
  result.page_tokens = kPageTokens;
  result.kv_pages = engine.kv_pages();
  result.grpc_methods.assign(std::begin(kMethodNames), std::end(kMethodNames));
  return result;
}

// What settings could not know without the model.
absl::Status CheckOutputDefault(const ServerSettings& settings,
                                const Scheduler& scheduler) {
  const int most = scheduler.max_request_tokens() - 1;
  const int value = settings.default_max_output_tokens.value_or(1);
  if (value <= most) return absl::OkStatus();
  return absl::InvalidArgumentError(
      StrCat("request_limits.default_max_output_tokens is ", value,
             ", must be from 1 to ", most, " with this model"));
}

ServedModelOptions ModelOptions(const Server::Options& options,
                                const Scheduler& scheduler,
                                std::vector<NamedPlan> plans) {
  ServedModelOptions result;
  result.name = options.model_name;
  result.max_request_tokens = scheduler.max_request_tokens();
  result.max_step_tokens = options.settings.max_step_tokens;
  result.default_max_output_tokens =
      options.settings.default_max_output_tokens.value_or(
          kDefaultMaxOutputTokens);
  result.explains = options.explains;
  result.plans = std::move(plans);
  return result;
}

LoadReporter::Limits LoadLimits(const ServerSettings& settings) {
  const unsigned cores = std::thread::hardware_concurrency();
  return {.running = settings.max_running_sequences,
          .waiting = settings.max_queued_requests,
          .cores = std::max(static_cast<int>(cores), 1)};
}

TokenStream::Options StreamOptions(const ServerSettings& settings) {
  TokenStream::Options options;
  options.max_buffered_messages = settings.max_buffered_messages;
  options.slow_consumer_timeout = settings.slow_consumer_timeout;
  return options;
}

TokenizerWorker::Options TokenizerOptions(const ServerSettings& settings) {
  TokenizerWorker::Options options;
  options.max_jobs = settings.max_queued_requests;
  return options;
}

GrpcServer::Options GrpcOptions(const Server::Options& options) {
  const ServerSettings& settings = options.settings;
  GrpcServer::Options result;
  result.address = options.listen;
  result.reflection = settings.security.reflection;
  result.max_request_bytes = settings.max_request_bytes;
  result.max_concurrent_streams = settings.max_concurrent_streams;
  result.max_metadata_bytes = settings.max_metadata_bytes;
  result.max_connection_age = settings.max_connection_age;
  result.max_connection_idle = settings.max_connection_idle;
  result.keepalive_time = settings.keepalive_time;
  result.keepalive_timeout = settings.keepalive_timeout;
  return result;
}

std::optional<GrpcServer::Options::Tls> TlsOf(const SecurityOptions& options,
                                              const SecurityFiles& files) {
  if (!options.has_tls()) return std::nullopt;
  return GrpcServer::Options::Tls{files.identity_path(),
                                  files.client_ca_path()};
}

}  // namespace

// In the order in which the parts need each other: C++ takes them down in
// reverse.
struct Server::Parts {
  Parts(const Options& options, std::unique_ptr<Engine> loaded,
        std::unique_ptr<Scheduler> made, std::vector<NamedPlan> plans)
      : engine(std::move(loaded)),
        clock(options.wall_clock()),
        metrics(MetricsOptions(options, *engine)),
        log(options.log_descriptor, metrics),
        access_control(options.settings.security.has_tokens() ||
                       !options.settings.security.access_policy.empty()),
        access({access_control, metrics, options.wall_clock,
                options.settings.caller_key}),
        scheduler(std::move(made)),
        queue(QueueOptions(options.settings)),
        models{DescribeModel(
            *engine, ModelOptions(options, *scheduler, std::move(plans)))},
        observer({metrics, log, now(), options.wall_clock}),
        tokenizer(TokenizerOptions(options.settings)),
        admission(
            {options.settings.default_deadline,
             options.settings.recall_sample_share,
             options.settings.default_targets},
            {models.front(), tokenizer, queue, metrics, now(), RandomBits}),
        reports_load(options.settings.report_load),
        load_reporter(LoadLimits(options.settings),
                      {load, now(), ProcessCpuTime}),
        inference(StreamOptions(options.settings),
                  {models.front(), admission, tokenizer, observer,
                   reports_load ? &load_reporter : nullptr, metrics, queue,
                   now(), access}),
        model_service({models, observer, access, now()}),
        orca(load_reporter, access),
        unknown_methods({observer, access, now()}),
        loop({queue, *engine, *scheduler, metrics, load, now(),
              options.on_device_failure}),
        admin_service({observer,
                       options.admin_needs_identity ? &access : nullptr, now(),
                       options.on_drain_request,
                       [this](ServingLoop::Flushed done) {
                         loop.FlushPrefixCache(std::move(done));
                       },
                       [this] { security->Look(); }}) {}

  std::function<absl::Time()> now() const {
    return [this] { return clock.Now(); };
  }

  // REQUIRES: the loop and gRPC have been started.
  void StartReadiness(absl::Duration stall_timeout, HealthServer* health) {
    readiness = std::make_unique<Readiness>(
        Readiness::Options{
            .stall_timeout = stall_timeout,
            .look_every = std::min(absl::Seconds(1), stall_timeout / 4)},
        Readiness::Dependencies{
            [this] { return clock.Now() - loop.last_turn(); },
            [this] { queue.Wake(); },
            [this, health](const Readiness::Health& now) {
              grpc->SetServing(now.ready);
              if (admin != nullptr) admin->SetServing(now.ready);
              metrics.SetReady(now.ready);
              if (health == nullptr) return;
              health->SetAlive(now.alive);
              health->SetReady(now.ready, models.front().name);
            }});
  }

  const std::unique_ptr<Engine> engine;
  const ServerClock clock;
  Metrics metrics;
  std::unique_ptr<Console> console;  // null for none
  RequestLog log;
  AccessControl access_control;
  const CallAccess access;
  std::unique_ptr<SecurityFiles> security;
  const std::unique_ptr<Scheduler> scheduler;
  RequestQueue queue;
  const std::vector<ServedModel> models;
  CallObserver observer;
  TokenizerWorker tokenizer;
  Admission admission;
  LoadGauge load;
  const bool reports_load;
  LoadReporter load_reporter;
  InferenceService inference;
  ModelService model_service;
  OrcaService orca;
  UnknownMethods unknown_methods;
  ServingLoop loop;
  AdminService admin_service;
  std::unique_ptr<GrpcServer> grpc;
  std::unique_ptr<GrpcServer> admin;     // may be null
  std::unique_ptr<Readiness> readiness;  // while the loop may turn
};

absl::StatusOr<std::unique_ptr<Server>> Server::Start(
    Options options, std::unique_ptr<Engine> engine) {
  Scheduler::Options scheduling = SchedulingOptions(
      options.settings, engine->info().context_tokens, engine->kv_pages());
  scheduling.model_name = options.model_name;
  ASSIGN_OR_RETURN(std::unique_ptr<Scheduler> scheduler,
                   Scheduler::Create(scheduling, engine->tokenizer()));
  RETURN_IF_ERROR(CheckOutputDefault(options.settings, *scheduler));
  ASSIGN_OR_RETURN(
      std::vector<NamedPlan> plans,
      ResolvePlans(options.settings.attention_plans, engine->info()));
  auto parts = std::make_unique<Parts>(options, std::move(engine),
                                       std::move(scheduler), std::move(plans));
  const MemoryUse memory = parts->engine->memory();
  parts->metrics.SetMemory({.mapped_file = memory.mapped_file_bytes,
                            .weights = memory.weights_bytes,
                            .kv = memory.kv_bytes - memory.summaries_bytes,
                            .summaries = memory.summaries_bytes,
                            .activations = memory.activations_bytes});
  const LoadTimes& load = options.load_times;
  parts->metrics.SetLoadTime(LoadStage::kRead, load.read);
  parts->metrics.SetLoadTime(LoadStage::kConvert, load.convert);
  parts->metrics.SetLoadTime(LoadStage::kWarmup, load.warmup);
  if (!options.metrics_listen.empty()) {
    ASSIGN_OR_RETURN(parts->console,
                     Console::Start({options.metrics_listen, parts->now(),
                                     options.wall_clock},
                                    parts->metrics));
  }
  ASSIGN_OR_RETURN(parts->security,
                   SecurityFiles::Load(options.settings.security,
                                       {parts->access_control, parts->metrics,
                                        ParseAccessPolicy, options.notice}));
  if (options.warms_up) RETURN_IF_ERROR(WarmUp(*parts->engine));
  std::vector<grpc::Service*> services = {&parts->inference,
                                          &parts->model_service};
  if (parts->reports_load) services.push_back(&parts->orca);
  const std::optional<GrpcServer::Options::Tls> tls =
      TlsOf(options.settings.security, *parts->security);
  GrpcServer::Options listening = GrpcOptions(options);
  listening.tls = tls;
  ASSIGN_OR_RETURN(parts->grpc, GrpcServer::Start(listening, services,
                                                  &parts->unknown_methods));
  if (!options.admin_listen.empty()) {
    listening.address = options.admin_listen;
    listening.reflection = true;
    if (!options.admin_needs_identity) listening.tls.reset();
    ASSIGN_OR_RETURN(parts->admin,
                     GrpcServer::Start(listening, {&parts->admin_service},
                                       /*others=*/nullptr));
  }
  parts->loop.Start();
  parts->StartReadiness(options.settings.stall_timeout, options.health);
  return std::unique_ptr<Server>(new Server(std::move(parts)));
}

Server::Server(std::unique_ptr<Parts> parts) : parts_(std::move(parts)) {}

Server::~Server() {
  parts_->readiness.reset();
  parts_->loop.Stop();
  if (parts_->admin != nullptr) parts_->admin->Shutdown(kFlushTime);
  parts_->grpc->Shutdown(kFlushTime);
  // What callers left behind: it uses parts that go first.
  parts_->tokenizer.Stop();
}

int Server::port() const { return parts_->grpc->port(); }
int Server::metrics_port() const {
  return parts_->console == nullptr ? 0 : parts_->console->port();
}
int Server::admin_port() const {
  return parts_->admin == nullptr ? 0 : parts_->admin->port();
}
const Metrics& Server::metrics() const { return parts_->metrics; }
int Server::max_prompt_tokens() const {
  return parts_->models.front().max_prompt_tokens;
}

void Server::ReloadSecurityFiles() { parts_->security->Look(); }

void Server::Drain(absl::Duration at_most) {
  const absl::Time deadline = parts_->clock.Now() + at_most;
  parts_->metrics.SetDraining(true);
  parts_->readiness->Close();
  parts_->queue.StartDraining();
  parts_->loop.Drain(deadline);
  parts_->readiness->LoopEnded();
  // Output that readers have not taken yet. Health watchers never end of
  // themselves and are not waited for.
  parts_->observer.WaitUntilIdle(
      std::max(deadline, parts_->clock.Now() + kFlushTime));
  parts_->log.Flush(kFlushTime);
}

void Server::Abandon() {
  parts_->readiness->Close();
  parts_->readiness->LoopEnded();
  parts_->observer.WaitUntilIdle(parts_->clock.Now() + kFlushTime);
  parts_->log.Flush(kFlushTime);
}

}  // namespace sparseserve
