#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace sparseserve {

// 1 to 128 printable ASCII characters, no spaces: what a caller may name a
// request.
bool IsRequestId(std::string_view id);

// 128 random bits in hexadecimal.
std::string NewRequestId();

// 64 bits from the system's source of randomness.
uint64_t RandomBits();

// The fields of a W3C `traceparent` header that version 00 defines, 55 bytes:
// all of such a header, the start of one of a later version. Empty if it is not
// one, in which case the standard says to act as if it were absent.
std::string TraceparentOf(std::string_view header);

// The trace id in what TraceparentOf() returned; empty if that was.
std::string_view TraceIdOf(std::string_view traceparent);

}  // namespace sparseserve
