#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/step.h"
#include "engine/tokenizer/tokenizer.h"
#include "server/calibration/length_bands.h"

namespace sparseserve {

// A text that plans are measured on.
struct CorpusText {
  std::string name;  // its file and which part of it
  std::vector<TokenId> tokens;
};

// Texts from files, in two halves: by the first plans are chosen, on the second
// they are measured. No file is in both.
struct Corpus {
  struct Options {
    std::vector<LengthBand> bands;
    int texts_per_file = 2;
    double held_out_share = 0.5;  // of files, at least one
    uint64_t seed = 1;
  };

  std::vector<CorpusText> calibration;
  std::vector<CorpusText> held_out;
  std::string sha256;  // of the files, one after another
  int64_t tokens = 0;  // that are run, and of these held out
  int64_t held_out_tokens = 0;
};

// A file's bytes. NOT_FOUND if it cannot be read, INVALID_ARGUMENT if it is no
// regular file or has more than 64 MiB.
absl::StatusOr<std::string> ReadTextFile(const std::string& path);

struct TextFile {
  std::string name;
  std::string text;
};

// From a file come as many texts as the options say, of equal distance, each
// up to the end of the longest band that it reaches; files that are too short
// for the shortest are left out. The texts of both halves are in an order in
// which many files come first. INVALID_ARGUMENT if either half would be empty.
absl::StatusOr<Corpus> BuildCorpus(const std::vector<TextFile>& files,
                                   const Tokenizer& tokenizer,
                                   const Corpus::Options& options);

}  // namespace sparseserve
