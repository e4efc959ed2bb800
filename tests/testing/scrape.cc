#include "tests/testing/scrape.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstdlib>

#include "absl/strings/match.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "gtest/gtest.h"

namespace sparseserve::testing {

std::string Scrape(int port) {
  const int fd = socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<uint16_t>(port));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  std::string reply;
  if (connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof(address)) ==
      0) {
    const std::string request =
        "GET /metrics HTTP/1.0\r\nHost: localhost\r\n\r\n";
    if (send(fd, request.data(), request.size(), MSG_NOSIGNAL) ==
        static_cast<ssize_t>(request.size())) {
      char buffer[16384];
      for (ssize_t n; (n = recv(fd, buffer, sizeof(buffer), 0)) > 0;) {
        reply.append(buffer, n);
      }
    }
  }
  close(fd);
  const size_t body = reply.find("\r\n\r\n");
  EXPECT_NE(body, std::string::npos) << "no metrics on port " << port;
  return body == std::string::npos ? "" : reply.substr(body + 4);
}

std::optional<double> SumOfSeries(const std::string& scrape,
                                  const std::string& name,
                                  std::initializer_list<std::string> labels) {
  std::optional<double> sum;
  for (const absl::string_view line : absl::StrSplit(scrape, '\n')) {
    if (!absl::StartsWith(line, name) || line.size() <= name.size() ||
        (line[name.size()] != ' ' && line[name.size()] != '{')) {
      continue;
    }
    bool matches = true;
    for (const std::string& label : labels) {
      matches = matches && absl::StrContains(line, label);
    }
    if (!matches) continue;
    sum = sum.value_or(0) + std::atof(line.data() + line.rfind(' '));
  }
  return sum;
}

}  // namespace sparseserve::testing
