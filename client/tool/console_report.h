#pragma once

#include <initializer_list>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "google/protobuf/struct.pb.h"

namespace sparseserve {

// What a server's /console.json says (server/console/README.md lists the
// fields). What a server does not say, or of another type than expected, reads
// as not measured: servers and this program may differ in age.
class ConsoleReport {
 public:
  using Path = std::initializer_list<absl::string_view>;

  // INVALID_ARGUMENT if `json` is not an object in JSON.
  static absl::StatusOr<ConsoleReport> Parse(const std::string& json);

  double Number(Path path) const;     // NaN if there is none
  std::string Text(Path path) const;  // empty if there is none
  bool IsTrue(Path path) const;
  // Names of an object's members, in order of the alphabet.
  std::vector<std::string> Members(Path path) const;
  // A list of numbers, NaN where one is null.
  std::vector<double> Numbers(Path path) const;
  // A list of objects.
  std::vector<ConsoleReport> Objects(Path path) const;

 private:
  explicit ConsoleReport(google::protobuf::Struct root);

  // Null if there is nothing.
  const google::protobuf::Value* Find(Path path) const;

  google::protobuf::Struct root_;
};

}  // namespace sparseserve
