// The server: reads flags, builds the graph of objects, waits for a signal,
// drains, and takes the graph down in reverse.

#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <memory>
#include <optional>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/flags/parse.h"
#include "absl/flags/usage.h"
#include "absl/flags/usage_config.h"
#include "engine/base/status_macros.h"
#include "engine/base/str_cat.h"
#include "engine/engine.h"
#include "google/protobuf/stubs/logging.h"
#include "server/load_stopwatch.h"
#include "server/rpc/health_server.h"
#include "server/rpc/served_model.h"
#include "server/rpc/server_settings.h"
#include "server/server.h"
#include "server/slowed_engine.h"
#include "server/stop_signals.h"

ABSL_FLAG(std::string, model, "",
          "Model to serve: a GGUF file, or a directory with config.json, "
          "safetensors files and tokenizer.json. Required.");
ABSL_FLAG(std::string, model_name, "",
          "Callers address the model as models/NAME; empty takes the name of "
          "the directory, or of the file without .gguf.");
ABSL_FLAG(std::string, listen, "127.0.0.1:9000",
          "host:port for gRPC, or unix:/path; port 0 picks a free one.");
ABSL_FLAG(std::string, metrics_listen, "127.0.0.1:9090",
          "host:port for HTTP GET /metrics and the console, /; port 0 picks a "
          "free one, empty serves none.");
ABSL_FLAG(std::string, config, "",
          "File with a sparseserve.v1.ServerConfig in text format; flags win "
          "over it.");
ABSL_FLAG(
    std::string, device, "auto",
    "Where the model runs: cpu, cuda, or auto, which takes a GPU if there "
    "is one that can run the model.");
ABSL_FLAG(int, threads, 0, "CPU threads; 0 takes one per available core.");
ABSL_FLAG(std::string, compute_dtype, "auto",
          "Rounding of matrix products: auto, bf16, or f32 (exact).");
ABSL_FLAG(std::string, simd, "auto",
          "Widest CPU instructions to use, such as avx2; auto takes all.");
ABSL_FLAG(std::string, kv_cache_bytes, "",
          "Memory for keys and values, such as 2GiB; empty takes an eighth of "
          "the machine's, at most 1GiB, and of a GPU nine tenths of what the "
          "model leaves.");
ABSL_FLAG(std::optional<int>, max_step_tokens, std::nullopt,
          "Tokens that one step computes at most: max_running_sequences + 63 "
          "to 8192; default 512, or that sum if it is more, and 8192 on a "
          "GPU.");
ABSL_FLAG(std::optional<int>, max_running_sequences, std::nullopt,
          "Requests that run at the same time, 1 to 1024; default 32.");
ABSL_FLAG(std::optional<int>, max_queued_requests, std::nullopt,
          "Requests that may wait, 1 to 100000; default 256.");
ABSL_FLAG(std::optional<absl::Duration>, drain_timeout, std::nullopt,
          "How long SIGTERM lets running requests finish, 0 to 1h; default "
          "30s.");
ABSL_FLAG(bool, explain, false,
          "Answer ExplainAttention, which shows what heads attend to in a "
          "prompt, and costs more time than the prompt itself.");
ABSL_FLAG(bool, insecure, false,
          "Serve unencrypted on an address that other machines can reach.");
ABSL_FLAG(std::optional<std::string>, tls_certificate, std::nullopt,
          "PEM file with the server's certificate and chain: serve encrypted. "
          "Taken over anew when it is replaced, as are the next two.");
ABSL_FLAG(std::optional<std::string>, tls_key, std::nullopt,
          "PEM file with the certificate's key.");
ABSL_FLAG(std::optional<std::string>, tls_client_ca, std::nullopt,
          "PEM file with the CAs of clients: who has no certificate of theirs "
          "gets no connection.");
ABSL_FLAG(std::string, health_listen, "",
          "host:port for health checks alone, in plaintext: liveness, "
          "readiness, and the model; port 0 picks a free one, empty serves "
          "none.");
ABSL_FLAG(std::string, admin_listen, "",
          "host:port or unix:/path for AdminService; beyond this machine it "
          "needs TLS, a client CA and an access policy. Empty serves none.");

namespace sparseserve {
namespace {

constexpr char kUsage[] =
    R"(Serves a language model over gRPC.

  sparseserve-server --model=SmolLM2-135M-Instruct.Q4_1.gguf
  sparseserve-server --model=SmolLM2-1.7B-Instruct/ --threads=4
  sparseserve-server --model=model.gguf --listen=127.0.0.1:0
  sparseserve-server --model=model.gguf --listen=0.0.0.0:9000 \
      --tls_certificate=tls.crt --tls_key=tls.key --tls_client_ca=ca.crt \
      --health_listen=0.0.0.0:9003 --config=server.textproto

SIGTERM finishes what runs (see --drain_timeout), then exits with status 0; a
second signal exits at once. Status 2 means that the server could not start.
)";

// For people; requests are logged as JSON.
void Log(const std::string& line) {
  std::fprintf(stderr, "sparseserve: %s\n", line.c_str());
}

std::string Mebibytes(int64_t bytes) { return StrCat(bytes >> 20, " MiB"); }

absl::StatusOr<ServerSettings> ReadSettings() {
  const std::string path = absl::GetFlag(FLAGS_config);
  std::ostringstream text;
  if (!path.empty()) {
    std::ifstream file(path);
    if (!file || !(text << file.rdbuf())) {
      return absl::NotFoundError(StrCat("--config: cannot read ", path));
    }
  }
  return SettleSettings(
      text.str(), path,
      {absl::GetFlag(FLAGS_max_step_tokens),
       absl::GetFlag(FLAGS_max_running_sequences),
       absl::GetFlag(FLAGS_max_queued_requests),
       absl::GetFlag(FLAGS_drain_timeout), absl::GetFlag(FLAGS_tls_certificate),
       absl::GetFlag(FLAGS_tls_key), absl::GetFlag(FLAGS_tls_client_ca)});
}

int64_t HostKvBytes() {
  const int64_t memory =
      int64_t{sysconf(_SC_PHYS_PAGES)} * sysconf(_SC_PAGESIZE);
  return std::min(memory / 8, int64_t{1} << 30);
}

// Where the server listens, as the flags say.
struct Listeners {
  ListenAddress grpc;
  std::optional<ListenAddress> metrics;
  std::optional<ListenAddress> health;
  std::optional<ListenAddress> admin;
};

absl::StatusOr<std::optional<ListenAddress>> ReadListener(
    const std::string& flag, const std::string& value, bool may_be_unix) {
  if (value.empty()) return std::nullopt;
  ASSIGN_OR_RETURN(const ListenAddress address, ParseListenAddress(value));
  if (address.is_unix && !may_be_unix) {
    return absl::InvalidArgumentError(
        StrCat(flag, "=", value, " must be host:port"));
  }
  return address;
}

absl::Status CheckExposure(const Listeners& listeners,
                           const SecurityOptions& security) {
  if (!listeners.grpc.loopback && !security.has_tls() &&
      !absl::GetFlag(FLAGS_insecure)) {
    return absl::InvalidArgumentError(StrCat(
        "--listen=", absl::GetFlag(FLAGS_listen),
        " is reachable from other machines, unencrypted and without "
        "credentials: give --tls_certificate and --tls_key (and "
        "--tls_client_ca, to let in only who has a certificate), listen on "
        "127.0.0.1 or unix:/path, or say --insecure if that is meant"));
  }
  if (listeners.admin.has_value() && !listeners.admin->loopback &&
      (security.tls_client_ca.empty() || security.access_policy.empty())) {
    return absl::InvalidArgumentError(StrCat(
        "--admin_listen=", absl::GetFlag(FLAGS_admin_listen),
        " is reachable from other machines: it needs --tls_certificate, "
        "--tls_key, --tls_client_ca and security.access_policy in --config, "
        "which says who may call sparseserve.v1.AdminService; or listen on "
        "127.0.0.1 or unix:/path"));
  }
  return absl::OkStatus();
}

absl::StatusOr<Listeners> ReadListeners(const SecurityOptions& security) {
  Listeners listeners;
  ASSIGN_OR_RETURN(listeners.grpc,
                   ParseListenAddress(absl::GetFlag(FLAGS_listen)));
  ASSIGN_OR_RETURN(
      listeners.metrics,
      ReadListener("--metrics_listen", absl::GetFlag(FLAGS_metrics_listen),
                   /*may_be_unix=*/false));
  ASSIGN_OR_RETURN(
      listeners.health,
      ReadListener("--health_listen", absl::GetFlag(FLAGS_health_listen),
                   /*may_be_unix=*/true));
  ASSIGN_OR_RETURN(
      listeners.admin,
      ReadListener("--admin_listen", absl::GetFlag(FLAGS_admin_listen),
                   /*may_be_unix=*/true));
  RETURN_IF_ERROR(CheckExposure(listeners, security));
  return listeners;
}

absl::StatusOr<std::unique_ptr<Engine>> LoadEngine(
    const ServerSettings& settings, const StopSignals& signals,
    LoadTimes& times) {
  const std::string path = absl::GetFlag(FLAGS_model);
  if (path.empty()) {
    return absl::InvalidArgumentError(
        "--model is required: the path of a GGUF file or a model directory");
  }
  Engine::Options options;
  options.model_path = path;
  options.device = absl::GetFlag(FLAGS_device);
  options.threads = absl::GetFlag(FLAGS_threads);
  options.compute_dtype = absl::GetFlag(FLAGS_compute_dtype);
  options.simd = absl::GetFlag(FLAGS_simd);
  const std::string kv_size = absl::GetFlag(FLAGS_kv_cache_bytes);
  if (!kv_size.empty()) {
    ASSIGN_OR_RETURN(options.kv_cache_bytes, ParseByteSize(kv_size));
  }
  options.host_kv_bytes = HostKvBytes();
  options.measure_recall =
      absl::GetFlag(FLAGS_explain) || settings.recall_sample_share > 0;
  options.pruned_heads = settings.pruned_heads;
  options.max_step_tokens = settings.max_step_tokens;
  options.max_step_slices = settings.max_running_sequences;
  options.stopwatch = [begin = std::chrono::steady_clock::now()] {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() -
                                         begin)
        .count();
  };
  LoadStopwatch stopwatch(options.stopwatch);
  options.progress = [&signals, &stopwatch, last = std::string()](
                         const char* stage, double done) mutable {
    stopwatch.Progress(stage, done);
    if (signals.signalled()) {
      Log("stopped while loading");
      _exit(1);  // nothing to finish, nothing to lose
    }
    // Quarters are enough to see that something moves.
    std::string line =
        StrCat("loading: ", stage, " ", static_cast<int>(done * 4) * 25, " %");
    if (line != last) Log(line);
    last = std::move(line);
  };
  Log(StrCat("loading ", path));
  ASSIGN_OR_RETURN(std::unique_ptr<Engine> engine,
                   Engine::Create(std::move(options)));
  times = stopwatch.Stop();
  if (const char* delay = std::getenv("SPARSESERVE_TEST_STEP_DELAY")) {
    engine = SlowedEngine(std::move(engine), delay);
  }
  return engine;
}

void LogEngine(const Engine& engine, const std::string& model_name) {
  const ModelInfo& info = engine.info();
  const MemoryUse memory = engine.memory();
  Log(StrCat("model ", model_name, ": ", info.architecture, ", ",
             info.parameters / 1'000'000, " M parameters, ", info.weight_dtype,
             ", context ", info.context_tokens, " tokens"));
  if (!info.pruned_heads.empty()) {
    size_t pruned = 0;
    for (const PrunedHeads& heads : info.pruned_heads) {
      pruned += heads.kv_heads.size();
    }
    Log(StrCat("pruned: ", pruned, " of ", info.layers * info.kv_heads,
               " KV heads"));
  }
  Log(StrCat("device: ", engine.DeviceSummary()));
  Log(StrCat("memory: model file ", Mebibytes(memory.mapped_file_bytes),
             ", weights ", Mebibytes(memory.weights_bytes), ", KV ",
             Mebibytes(memory.kv_bytes), " in ", engine.kv_pages(),
             " pages of ", kPageTokens, " tokens, activations ",
             Mebibytes(memory.activations_bytes)));
}

std::string AddressText(const ListenAddress& address, int port) {
  return address.is_unix ? address.host : StrCat(address.host, ":", port);
}

void LogSecurity(const SecurityOptions& security) {
  Log(StrCat("security: ",
             security.has_tls()
                 ? security.tls_client_ca.empty() ? "TLS" : "mutual TLS"
                 : "plaintext",
             security.has_tokens() ? ", bearer tokens" : "",
             security.access_policy.empty() ? "" : ", access policy",
             ", reflection ", security.reflection ? "on" : "off"));
}

void LogServer(const Server& server, const Listeners& listeners,
               const ServerSettings& settings) {
  Log(StrCat("limits: ", settings.max_running_sequences, " running, ",
             settings.max_queued_requests, " queued, ",
             settings.max_step_tokens, " tokens a step, prompts up to ",
             server.max_prompt_tokens(), " tokens, ",
             absl::FormatDuration(settings.default_deadline),
             " where callers set no deadline"));
  std::string line =
      StrCat("listening grpc=", AddressText(listeners.grpc, server.port()));
  if (listeners.metrics.has_value()) {
    line += StrCat(" metrics=",
                   AddressText(*listeners.metrics, server.metrics_port()));
  }
  if (listeners.admin.has_value()) {
    line +=
        StrCat(" admin=", AddressText(*listeners.admin, server.admin_port()));
  }
  // The last line of a start: scripts wait for it.
  Log(line);
}

// 0 after a signal, 1 after a failed device.
absl::StatusOr<int> Run(StopSignals& signals) {
  ASSIGN_OR_RETURN(ServerSettings settings, ReadSettings());
  ASSIGN_OR_RETURN(const Listeners listeners, ReadListeners(settings.security));
  ASSIGN_OR_RETURN(const std::string model_name,
                   ModelResourceName(absl::GetFlag(FLAGS_model_name),
                                     absl::GetFlag(FLAGS_model)));
  // Before the model, which takes its time to load: who probes sees that the
  // process lives, and is not ready.
  std::unique_ptr<HealthServer> health;
  if (listeners.health.has_value()) {
    ASSIGN_OR_RETURN(health,
                     HealthServer::Start(absl::GetFlag(FLAGS_health_listen)));
    Log(StrCat("health checks on ",
               AddressText(*listeners.health, health->port())));
  }
  LoadTimes load_times;
  ASSIGN_OR_RETURN(std::unique_ptr<Engine> engine,
                   LoadEngine(settings, signals, load_times));
  settings.max_step_tokens = engine->max_step_tokens();
  if (absl::GetFlag(FLAGS_explain) && !engine->info().pruned_heads.empty()) {
    return absl::FailedPreconditionError(
        "--explain needs all of the model's heads, but prune_heads leaves some "
        "out");
  }
  if (absl::GetFlag(FLAGS_explain) && !engine->info().profiles_attention) {
    return absl::FailedPreconditionError(
        StrCat("--explain needs --device=cpu: ", engine->device(),
               " does not profile attention"));
  }
  Server::Options options;
  options.settings = settings;
  options.model_name = model_name;
  options.listen = absl::GetFlag(FLAGS_listen);
  options.metrics_listen = absl::GetFlag(FLAGS_metrics_listen);
  options.admin_listen = absl::GetFlag(FLAGS_admin_listen);
  options.admin_needs_identity =
      listeners.admin.has_value() && !listeners.admin->loopback;
  options.health = health.get();
  options.warms_up = true;
  options.on_drain_request = [&signals] { signals.Stop(); };
  options.notice = Log;
  options.explains = absl::GetFlag(FLAGS_explain);
  options.version = SPARSESERVE_VERSION;
  options.revision = SPARSESERVE_REVISION;
  options.load_times = load_times;
  options.on_device_failure = [&signals](const absl::Status& status) {
    Log(StrCat("the device failed: ", std::string(status.message())));
    signals.DeviceFailed();
  };
  LogEngine(*engine, options.model_name);
  LogSecurity(settings.security);
  ASSIGN_OR_RETURN(const std::unique_ptr<Server> server,
                   Server::Start(std::move(options), std::move(engine)));
  LogServer(*server, listeners, settings);

  if (signals.Wait() == StopSignals::Cause::kDeviceFailed) {
    server->Abandon();
    return 1;
  }
  Log(StrCat("stopping: finishing what runs, for at most ",
             absl::FormatDuration(settings.drain_timeout)));
  server->Drain(settings.drain_timeout);
  Log("stopped");
  return 0;
}

absl::FlagsUsageConfig UsageConfig() {
  absl::FlagsUsageConfig config;
  config.version_string = [] {
    return StrCat("sparseserve-server ", SPARSESERVE_VERSION, " (",
                  SPARSESERVE_REVISION, ")\n");
  };
  // The path of the build is nobody's business.
  config.normalize_filename = [](absl::string_view file) {
    return std::string(file.substr(file.rfind('/') + 1));
  };
  config.contains_help_flags = [](absl::string_view file) {
    return file == "main.cc";
  };
  return config;
}

}  // namespace
}  // namespace sparseserve

int main(int argc, char** argv) {
  sparseserve::StopSignals signals;
  // Protobuf would print a line for every request that is not UTF-8; callers
  // are told instead.
  google::protobuf::SetLogHandler(nullptr);
  signal(SIGPIPE, SIG_IGN);  // a closed stderr must not end the server
  absl::SetProgramUsageMessage(sparseserve::kUsage);
  absl::SetFlagsUsageConfig(sparseserve::UsageConfig());
  const std::vector<char*> rest = absl::ParseCommandLine(argc, argv);
  absl::StatusOr<int> result =
      rest.size() > 1 ? absl::InvalidArgumentError(sparseserve::StrCat(
                            "unexpected argument ", rest[1], "; see --help"))
                      : sparseserve::Run(signals);
  if (result.ok()) return *result;
  sparseserve::Log(std::string(result.status().message()));
  return 2;
}
