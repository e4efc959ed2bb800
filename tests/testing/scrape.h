#pragma once

#include <initializer_list>
#include <optional>
#include <string>

namespace sparseserve::testing {

// The body of GET /metrics on this machine; fails the test if there is none.
std::string Scrape(int port);

// The sum of the series of `name` in a scrape whose labels contain every one of
// `labels`, each like `state="free"`. Nothing if there is none.
std::optional<double> SumOfSeries(const std::string& scrape,
                                  const std::string& name,
                                  std::initializer_list<std::string> labels);

}  // namespace sparseserve::testing
