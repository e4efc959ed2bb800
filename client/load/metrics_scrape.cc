#include "client/load/metrics_scrape.h"

#include <netdb.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "absl/cleanup/cleanup.h"
#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"

namespace sparseserve {
namespace {

constexpr size_t kMaxReplyBytes = 64 << 20;

absl::Status NoMetrics(absl::string_view address, absl::string_view cause) {
  return absl::FailedPreconditionError(
      absl::StrCat("no metrics at ", address, ": ", cause));
}

// A connected socket; the caller closes it.
absl::StatusOr<int> ConnectTo(absl::string_view address,
                              absl::Duration timeout) {
  const size_t colon = address.rfind(':');
  if (colon == address.npos || colon == 0 || colon + 1 == address.size()) {
    return absl::InvalidArgumentError(
        absl::StrCat("\"", address, "\" is not host:port"));
  }
  absl::string_view host = address.substr(0, colon);
  if (absl::ConsumePrefix(&host, "[")) absl::ConsumeSuffix(&host, "]");
  addrinfo hints = {};
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  const int error = getaddrinfo(std::string(host).c_str(),
                                std::string(address.substr(colon + 1)).c_str(),
                                &hints, &found);
  if (error != 0) return NoMetrics(address, gai_strerror(error));
  const absl::Cleanup free_found = [found] { freeaddrinfo(found); };
  const timeval limit = absl::ToTimeval(timeout);
  int cause = 0;
  for (const addrinfo* at = found; at != nullptr; at = at->ai_next) {
    const int fd = socket(at->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0) continue;
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit));
    if (connect(fd, at->ai_addr, at->ai_addrlen) == 0) return fd;
    cause = errno;
    close(fd);
  }
  return NoMetrics(address, strerror(cause));
}

}  // namespace

absl::StatusOr<std::string> FetchFromMetricsPort(absl::string_view address,
                                                 absl::string_view path,
                                                 absl::Duration timeout) {
  const absl::StatusOr<int> fd = ConnectTo(address, timeout);
  if (!fd.ok()) return fd.status();
  const absl::Cleanup close_socket = [&fd] { close(*fd); };
  // 1.0: the reply ends with the connection.
  const std::string request =
      absl::StrCat("GET ", path, " HTTP/1.0\r\nHost: ", address, "\r\n\r\n");
  if (send(*fd, request.data(), request.size(), MSG_NOSIGNAL) !=
      static_cast<ssize_t>(request.size())) {
    return NoMetrics(address, strerror(errno));
  }
  std::string reply;
  char buffer[1 << 14];
  while (true) {
    const ssize_t got = recv(*fd, buffer, sizeof(buffer), 0);
    if (got == 0) break;
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return NoMetrics(address, strerror(errno));
    reply.append(buffer, static_cast<size_t>(got));
    if (reply.size() > kMaxReplyBytes) {
      return NoMetrics(address,
                       absl::StrCat("more than ", kMaxReplyBytes, " bytes"));
    }
  }
  const size_t body = reply.find("\r\n\r\n");
  const absl::string_view first_line =
      absl::string_view(reply).substr(0, reply.find("\r\n"));
  if (body == reply.npos || !absl::StrContains(first_line, " 200 ")) {
    return NoMetrics(address, absl::StrCat("the reply begins with \"",
                                           first_line.substr(0, 60), "\""));
  }
  return reply.substr(body + 4);
}

absl::StatusOr<std::string> ScrapeMetrics(absl::string_view address,
                                          absl::Duration timeout) {
  return FetchFromMetricsPort(address, "/metrics", timeout);
}

}  // namespace sparseserve
