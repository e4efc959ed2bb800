#pragma once

#include <string>
#include <string_view>

namespace sparseserve {

// Turns the bytes of successive tokens into text that is valid UTF-8 at every
// moment: a character split between tokens is held back until it is whole, and
// each maximal invalid part becomes one U+FFFD. One stream of text, one thread.
class Utf8Decoder {
 public:
  // Text that became whole with `bytes`; may be empty.
  std::string Push(std::string_view bytes);
  // Ends the text: U+FFFD if a character was cut short, else nothing. The
  // decoder is as new afterwards.
  std::string Flush();

 private:
  std::string pending_;  // the beginning of one character, at most 3 bytes
};

}  // namespace sparseserve
