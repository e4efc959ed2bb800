#include "tests/server/rpc/raw_call.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include <cstdint>
#include <optional>
#include <utility>
#include <vector>

#include "gtest/gtest.h"

namespace sparseserve::testing {
namespace {

// RFC 9113, section 6.
enum FrameType : uint8_t { kData = 0, kHeaders = 1, kSettings = 4 };
constexpr uint8_t kEndStream = 1;
constexpr uint8_t kAck = 1;
constexpr uint8_t kEndHeaders = 4;
constexpr uint8_t kPadded = 8;
constexpr size_t kHeaderBytes = 9;
// gRPC's own setting: binary metadata may come as it is.
constexpr uint16_t kAllowTrueBinary = 0xfe03;
constexpr uint16_t kHeaderTableSize = 1;

std::string BigEndian(uint32_t value, int bytes) {
  std::string text;
  for (int i = bytes - 1; i >= 0; --i) {
    text.push_back(static_cast<char>(value >> (8 * i)));
  }
  return text;
}

std::string Frame(uint8_t type, uint8_t flags, uint32_t stream,
                  const std::string& payload) {
  return BigEndian(static_cast<uint32_t>(payload.size()), 3) +
         static_cast<char>(type) + static_cast<char>(flags) +
         BigEndian(stream, 4) + payload;
}

std::string Setting(uint16_t id, uint32_t value) {
  return BigEndian(id, 2) + BigEndian(value, 4);
}

// A literal without indexing; both short and not compressed.
std::string Header(const std::string& name, const std::string& value) {
  return std::string(1, '\0') + static_cast<char>(name.size()) + name +
         static_cast<char>(value.size()) + value;
}

class Socket {
 public:
  explicit Socket(int port) : fd_(socket(AF_INET, SOCK_STREAM, 0)) {
    const timeval timeout = {.tv_sec = 60};
    setsockopt(fd_, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof(timeout));
    sockaddr_in address = {};
    address.sin_family = AF_INET;
    address.sin_port = htons(static_cast<uint16_t>(port));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    EXPECT_EQ(
        connect(fd_, reinterpret_cast<sockaddr*>(&address), sizeof(address)),
        0);
  }
  ~Socket() { close(fd_); }
  Socket(const Socket&) = delete;
  Socket& operator=(const Socket&) = delete;

  void Send(const std::string& bytes) {
    EXPECT_EQ(send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL),
              static_cast<ssize_t>(bytes.size()));
  }
  // False if the server closed the connection.
  bool Receive(size_t bytes, std::string& to) {
    to.resize(bytes);
    for (size_t done = 0; done < bytes;) {
      const ssize_t n = recv(fd_, to.data() + done, bytes - done, 0);
      if (n <= 0) return false;
      done += static_cast<size_t>(n);
    }
    return true;
  }

 private:
  const int fd_;
};

uint32_t Number(const std::string& text, size_t begin, size_t bytes) {
  uint32_t value = 0;
  for (size_t i = begin; i < begin + bytes; ++i) {
    value = value << 8 | static_cast<uint8_t>(text[i]);
  }
  return value;
}

// A string's length with the seven bits that HPACK begins with.
std::optional<std::string> ReadString(const std::string& block, size_t at) {
  if (at >= block.size()) return std::nullopt;
  size_t length = static_cast<uint8_t>(block[at++]);
  if (length >= 0x80) return std::nullopt;  // Huffman's code
  for (int shift = 0; length >= 0x7f && at < block.size(); shift += 7) {
    const auto byte = static_cast<uint8_t>(block[at++]);
    length += static_cast<size_t>(byte & 0x7f) << shift;
    if (byte < 0x80) break;
  }
  if (length > block.size() - at) return std::nullopt;
  return block.substr(at, length);
}

}  // namespace

std::string RawTrailers(int port, const std::string& path,
                        const std::string& request) {
  Socket socket(port);
  socket.Send(
      "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" +
      Frame(kSettings, 0, 0,
            Setting(kHeaderTableSize, 0) + Setting(kAllowTrueBinary, 1)));
  std::string header, payload, block;
  bool sent = false;
  while (socket.Receive(kHeaderBytes, header) &&
         socket.Receive(Number(header, 0, 3), payload)) {
    const auto type = static_cast<uint8_t>(header[3]);
    const auto flags = static_cast<uint8_t>(header[4]);
    if (type == kSettings && (flags & kAck) == 0) {
      socket.Send(Frame(kSettings, kAck, 0, ""));
    }
    if (type == kSettings && (flags & kAck) != 0 && !sent) {
      // The server knows by now how to encode what it answers.
      sent = true;
      socket.Send(
          Frame(kHeaders, kEndHeaders, 1,
                Header(":method", "POST") + Header(":scheme", "http") +
                    Header(":path", path) + Header(":authority", "localhost") +
                    Header("te", "trailers") +
                    Header("content-type", "application/grpc")) +
          Frame(kData, kEndStream, 1,
                std::string(1, '\0') +
                    BigEndian(static_cast<uint32_t>(request.size()), 4) +
                    request));
    }
    if (type != kHeaders) continue;
    EXPECT_EQ(flags & kPadded, 0);
    EXPECT_NE(flags & kEndHeaders, 0);
    if ((flags & kEndStream) != 0) return payload;
  }
  ADD_FAILURE() << path << " did not end with trailers";
  return "";
}

std::string BinaryTrailer(const std::string& block, const std::string& key) {
  const size_t at = block.find(key);
  if (at == std::string::npos) return "";
  const auto value = ReadString(block, at + key.size());
  // A byte of 0 says that it is not in base64.
  if (!value.has_value() || value->empty() || (*value)[0] != '\0') {
    ADD_FAILURE() << key << " is not there as plain bytes";
    return "";
  }
  return value->substr(1);
}

}  // namespace sparseserve::testing
