#pragma once

#include <string>

namespace sparseserve::testing {

// The header block of the trailers that a unary call or stream ended with, as
// bytes on the wire (RFC 7541). gRPC's C++ client keeps load reports to itself;
// this one is a socket that asks for nothing compressed and for binary values
// as they are. `path` such as "/package.Service/Method". Empty, with a failure
// added to the test, if the server does not answer so.
std::string RawTrailers(int port, const std::string& path,
                        const std::string& request);

// The value of a binary entry of such a block; empty if it has none.
std::string BinaryTrailer(const std::string& block, const std::string& key);

}  // namespace sparseserve::testing
