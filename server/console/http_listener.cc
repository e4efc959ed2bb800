#include "server/console/http_listener.h"

#include <netdb.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <optional>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"
#include "engine/base/status_macros.h"
#include "engine/base/str_cat.h"

namespace sparseserve {
namespace {

constexpr absl::string_view kHeadEnd = "\r\n\r\n";

struct HostAndPort {
  std::string host, port;
};

absl::StatusOr<HostAndPort> ParseAddress(const std::string& address) {
  const size_t colon = address.rfind(':');
  HostAndPort result;
  int port = -1;
  if (colon != std::string::npos) {
    absl::string_view host = absl::string_view(address).substr(0, colon);
    const bool bracketed =
        absl::ConsumePrefix(&host, "[") && absl::ConsumeSuffix(&host, "]");
    result = {std::string(host), address.substr(colon + 1)};
    const bool is_number =
        !result.port.empty() &&
        result.port.find_first_not_of("0123456789") == std::string::npos;
    if (!is_number || !absl::SimpleAtoi(result.port, &port)) port = -1;
    if (!bracketed && absl::StrContains(host, ":")) port = -1;
  }
  if (port >= 0 && port <= 65535) return result;
  return absl::InvalidArgumentError(
      StrCat("metrics address '", address,
             "' is not host:port with a port of 0 to 65535"));
}

// The listening socket; the caller closes it.
absl::StatusOr<int> Bind(const std::string& address) {
  ASSIGN_OR_RETURN(const HostAndPort at, ParseAddress(address));
  addrinfo hints = {};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_PASSIVE;
  addrinfo* found = nullptr;
  const int unknown = getaddrinfo(at.host.empty() ? nullptr : at.host.c_str(),
                                  at.port.c_str(), &hints, &found);
  std::string cause = unknown == 0 ? "no address" : gai_strerror(unknown);
  const absl::Cleanup free_found = [&found] {
    if (found != nullptr) freeaddrinfo(found);
  };
  for (const addrinfo* it = found; it != nullptr; it = it->ai_next) {
    const int fd =
        socket(it->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    const int on = 1;
    if (fd >= 0 &&
        setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) == 0 &&
        bind(fd, it->ai_addr, it->ai_addrlen) == 0 &&
        listen(fd, SOMAXCONN) == 0) {
      return fd;
    }
    cause = strerror(errno);
    if (fd >= 0) close(fd);
  }
  return absl::UnavailableError(
      StrCat("cannot listen for metrics on '", address, "': ", cause));
}

int PortOf(int socket) {
  sockaddr_storage address = {};
  socklen_t size = sizeof(address);
  if (getsockname(socket, reinterpret_cast<sockaddr*>(&address), &size) != 0) {
    return 0;
  }
  const auto port = address.ss_family == AF_INET6
                        ? reinterpret_cast<sockaddr_in6&>(address).sin6_port
                        : reinterpret_cast<sockaddr_in&>(address).sin_port;
  return ntohs(port);
}

}  // namespace

struct HttpListener::Connection {
  enum class State { kReading, kWriting, kDraining, kDone };

  explicit Connection(int descriptor) : fd(descriptor) {}
  ~Connection() { close(fd); }
  Connection(const Connection&) = delete;
  Connection& operator=(const Connection&) = delete;

  const int fd;
  State state = State::kReading;
  absl::Time deadline;
  std::string request;
  std::string reply;
  size_t written = 0;  // bytes of the reply
};

absl::StatusOr<std::unique_ptr<HttpListener>> HttpListener::Start(
    Options options, Handlers handlers) {
  Sockets sockets;
  ASSIGN_OR_RETURN(sockets.listener, Bind(options.address));
  sockets.stop_event = eventfd(0, EFD_CLOEXEC);
  if (sockets.stop_event < 0) {
    const std::string cause = strerror(errno);
    close(sockets.listener);
    return absl::UnavailableError(StrCat("no event descriptor: ", cause));
  }
  return std::unique_ptr<HttpListener>(
      new HttpListener(std::move(options), std::move(handlers), sockets));
}

HttpListener::HttpListener(Options options, Handlers handlers, Sockets sockets)
    : options_(std::move(options)),
      handlers_(std::move(handlers)),
      sockets_(sockets),
      port_(PortOf(sockets.listener)),
      thread_([this] { Run(); }) {}

HttpListener::~HttpListener() {
  const uint64_t one = 1;
  // A counter that takes 2^64 - 2 of these.
  (void)!write(sockets_.stop_event, &one, sizeof(one));
  thread_.join();
  connections_.clear();
  close(sockets_.stop_event);
  close(sockets_.listener);
}

void HttpListener::Run() {
  absl::Time next_tick = handlers_.now();
  do {
    const absl::Time now = handlers_.now();
    if (now >= next_tick) {
      handlers_.tick();
      next_tick += options_.tick_every;
      // Late ones are not made up for.
      if (next_tick < now) next_tick = now + options_.tick_every;
    }
  } while (Wait(next_tick));
}

bool HttpListener::Wait(absl::Time until) {
  using State = Connection::State;
  std::vector<pollfd> polled = {{sockets_.stop_event, POLLIN, 0},
                                {accepts_ ? sockets_.listener : -1, POLLIN, 0}};
  for (const auto& connection : connections_) {
    const bool writes = connection->state == State::kWriting;
    polled.push_back(
        {connection->fd, static_cast<short>(writes ? POLLOUT : POLLIN), 0});
    until = std::min(until, connection->deadline);
  }
  const absl::Duration wait = std::clamp(
      until - handlers_.now(), absl::ZeroDuration(), options_.tick_every);
  // Rounded up, so as not to wake a little too early again and again.
  poll(polled.data(), polled.size(),
       static_cast<int>(
           absl::ToInt64Milliseconds(wait + absl::Microseconds(999))));
  if (polled[0].revents != 0) return false;
  const absl::Time now = handlers_.now();
  for (size_t i = 0; i < connections_.size(); ++i) {
    Connection& connection = *connections_[i];
    if (polled[i + 2].revents != 0) Serve(connection);
    if (now >= connection.deadline) connection.state = State::kDone;
  }
  std::erase_if(connections_, [](const auto& connection) {
    return connection->state == State::kDone;
  });
  // A failed one is tried again when the wait ends, not at once.
  if (polled[1].revents != 0 || !accepts_) Accept();
  return true;
}

void HttpListener::Accept() {
  const int fd = accept4(sockets_.listener, nullptr, nullptr,
                         SOCK_CLOEXEC | SOCK_NONBLOCK);
  // Else there are no descriptors left, and the listener would wake us for
  // ever.
  accepts_ = fd >= 0 || errno == EAGAIN || errno == ECONNABORTED;
  if (fd < 0) return;
  if (std::ssize(connections_) >= options_.max_connections) {
    // In order of arrival: the first that still owes its request, or else the
    // first.
    auto oldest = std::find_if(
        connections_.begin(), connections_.end(), [](const auto& connection) {
          return connection->state != Connection::State::kWriting;
        });
    if (oldest == connections_.end()) oldest = connections_.begin();
    connections_.erase(oldest);
  }
  connections_.push_back(std::make_unique<Connection>(fd));
  connections_.back()->deadline = handlers_.now() + options_.request_timeout;
}

void HttpListener::Serve(Connection& connection) {
  switch (connection.state) {
    case Connection::State::kReading:
      return Read(connection);
    case Connection::State::kWriting:
      return Write(connection);
    case Connection::State::kDraining:
      return Drain(connection);
    case Connection::State::kDone:
      return;
  }
}

void HttpListener::Read(Connection& connection) {
  char buffer[4096];
  const ssize_t got = recv(connection.fd, buffer, sizeof(buffer), 0);
  if (got <= 0) {
    const bool later = got < 0 && (errno == EAGAIN || errno == EINTR);
    if (!later) connection.state = Connection::State::kDone;
    return;
  }
  std::string& request = connection.request;
  // The end of a head may have come in two pieces.
  const size_t seen = request.size() - std::min<size_t>(request.size(), 3);
  request.append(buffer, static_cast<size_t>(got));
  const size_t end = request.find(kHeadEnd.data(), seen, kHeadEnd.size());
  if (end != std::string::npos &&
      end + kHeadEnd.size() <=
          static_cast<size_t>(options_.max_request_bytes)) {
    request.resize(end + kHeadEnd.size());
    Answer(connection);
  } else if (std::ssize(request) > options_.max_request_bytes) {
    connection.reply = Serialize(StatusReply(431), false);
  }
  if (connection.reply.empty()) return;
  connection.state = Connection::State::kWriting;
  connection.deadline = handlers_.now() + options_.reply_timeout;
  Write(connection);
}

void HttpListener::Answer(Connection& connection) {
  const std::optional<HttpRequest> request =
      ParseHttpRequest(connection.request);
  HttpReply reply = StatusReply(request.has_value() ? 405 : 400);
  if (request.has_value()) {
    if (request->method == "GET") {
      reply = handlers_.get(request->path);
    } else {
      reply.allow = "GET";
    }
  }
  connection.reply =
      Serialize(reply, request.has_value() && request->accepts_gzip);
}

void HttpListener::Write(Connection& connection) {
  const std::string& reply = connection.reply;
  const ssize_t sent = send(connection.fd, reply.data() + connection.written,
                            reply.size() - connection.written, MSG_NOSIGNAL);
  if (sent < 0) {
    const bool later = errno == EAGAIN || errno == EINTR;
    if (!later) connection.state = Connection::State::kDone;
    return;
  }
  connection.written += static_cast<size_t>(sent);
  if (connection.written < reply.size()) return;
  // Closing a socket with unread bytes could take the reply from its reader:
  // these are thrown away until the other side closes too.
  shutdown(connection.fd, SHUT_WR);
  connection.state = Connection::State::kDraining;
  connection.deadline = handlers_.now() + absl::Seconds(1);
}

void HttpListener::Drain(Connection& connection) {
  char buffer[4096];
  const ssize_t got = recv(connection.fd, buffer, sizeof(buffer), 0);
  const bool more = got > 0 || (got < 0 && (errno == EAGAIN || errno == EINTR));
  if (!more) connection.state = Connection::State::kDone;
}

}  // namespace sparseserve
