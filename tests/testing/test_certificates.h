#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/time/clock.h"
#include "absl/time/time.h"

namespace sparseserve::testing {

// A certificate and its key, in PEM.
struct CertificatePair {
  std::string certificate;
  std::string key;
};

// What a certificate says.
struct CertificateSubject {
  std::string common_name;
  std::vector<std::string> dns_names;
  std::string uri;
  absl::Time begin = absl::Now() - absl::Hours(1);
  absl::Time end = absl::Now() + absl::Hours(1);
};

// Issues certificates that nobody else knows of.
class CertificateAuthority {
 public:
  explicit CertificateAuthority(const std::string& name);
  ~CertificateAuthority();

  const std::string& certificate() const { return certificate_; }  // PEM
  CertificatePair Issue(const CertificateSubject& subject) const;

 private:
  struct State;
  std::unique_ptr<State> state_;
  std::string certificate_;
};

}  // namespace sparseserve::testing
