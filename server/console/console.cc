#include "server/console/console.h"

#include <random>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/base/status_macros.h"
#include "server/console/console_json.h"
#include "server/console/console_page.h"

namespace sparseserve {
namespace {

// 128 random bits in hexadecimal.
std::string NewNonce() {
  std::random_device random;
  std::string nonce;
  for (int i = 0; i < 4; ++i) {
    absl::StrAppend(&nonce, absl::Hex(random(), absl::kZeroPad8));
  }
  return nonce;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Console>> Console::Start(
    Options options, const Metrics& metrics) {
  HttpListener::Options listener;
  listener.address = options.address;
  const std::function<absl::Time()> now = options.now;
  std::unique_ptr<Console> console(new Console(std::move(options), metrics));
  ASSIGN_OR_RETURN(
      console->listener_,
      HttpListener::Start(
          std::move(listener),
          {.now = now,
           .get = [made = console.get()](
                      const std::string& path) { return made->Get(path); },
           .tick = [made = console.get()] { made->Sample(); }}));
  return console;
}

Console::Console(Options options, const Metrics& metrics)
    : options_(std::move(options)), metrics_(metrics) {}

HttpReply Console::Get(const std::string& path) const {
  HttpReply reply;
  if (path == "/metrics") {
    reply.body = metrics_.Serialize();
  } else if (path == "/console.json") {
    const MetricsSnapshot snapshot = metrics_.Snapshot();
    reply.content_type = "application/json";
    reply.body = ConsoleJson(ReadState(snapshot), ReadTotals(snapshot),
                             history_, options_.now(), options_.wall_clock());
  } else if (path == "/") {
    reply.content_type = "text/html; charset=utf-8";
    const std::string nonce = NewNonce();
    reply.content_security_policy = ConsolePagePolicy(nonce);
    reply.body = ConsolePage(nonce);
  } else {
    return StatusReply(404);
  }
  return reply;
}

void Console::Sample() {
  const MetricsSnapshot snapshot = metrics_.Snapshot();
  history_.Add(options_.now(), ReadState(snapshot), ReadTotals(snapshot));
}

}  // namespace sparseserve
