#pragma once

#include <array>
#include <cstddef>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "prometheus/counter.h"
#include "prometheus/family.h"
#include "prometheus/gauge.h"
#include "prometheus/histogram.h"
#include "prometheus/labels.h"
#include "prometheus/registry.h"

namespace sparseserve {

// Values of a label, in the order of the enum that they name.
template <size_t N>
using LabelValues = std::array<const char*, N>;

// Makes the series of one metric family. The registry owns what it returns.
template <typename T>
class FamilyBuilder {
 public:
  FamilyBuilder(prometheus::Family<T>& family, prometheus::Labels labels,
                std::vector<double> buckets)
      : family_(family),
        labels_(std::move(labels)),
        buckets_(std::move(buckets)) {}

  T* One(const prometheus::Labels& more = {}) const {
    prometheus::Labels labels = labels_;
    labels.insert(more.begin(), more.end());
    if constexpr (std::is_same_v<T, prometheus::Histogram>) {
      return &family_.Add(labels, buckets_);
    } else {
      return &family_.Add(labels);
    }
  }

  template <size_t N>
  std::array<T*, N> Each(const char* label, const LabelValues<N>& values,
                         prometheus::Labels more = {}) const {
    std::array<T*, N> series;
    for (size_t i = 0; i < N; ++i) {
      more[label] = values[i];
      series[i] = One(more);
    }
    return series;
  }

  template <size_t N, size_t M>
  std::array<std::array<T*, M>, N> Grid(const char* row_label,
                                        const LabelValues<N>& rows,
                                        const char* column_label,
                                        const LabelValues<M>& columns) const {
    std::array<std::array<T*, M>, N> series;
    for (size_t i = 0; i < N; ++i) {
      series[i] = Each(column_label, columns, {{row_label, rows[i]}});
    }
    return series;
  }

 private:
  prometheus::Family<T>& family_;
  const prometheus::Labels labels_;
  const std::vector<double> buckets_;
};

// Names families and gives them the labels that all of their series share.
class SeriesFactory {
 public:
  SeriesFactory(prometheus::Registry& registry, prometheus::Labels labels)
      : registry_(registry), labels_(std::move(labels)) {}

  FamilyBuilder<prometheus::Counter> Counter(const char* name,
                                             const char* help) const {
    return {prometheus::BuildCounter()
                .Name(std::string("sparseserve_") + name)
                .Help(help)
                .Register(registry_),
            labels_,
            {}};
  }
  FamilyBuilder<prometheus::Gauge> Gauge(const char* name,
                                         const char* help) const {
    return {prometheus::BuildGauge()
                .Name(std::string("sparseserve_") + name)
                .Help(help)
                .Register(registry_),
            labels_,
            {}};
  }
  FamilyBuilder<prometheus::Histogram> Histogram(
      const char* name, const char* help, std::vector<double> buckets) const {
    return {prometheus::BuildHistogram()
                .Name(std::string("sparseserve_") + name)
                .Help(help)
                .Register(registry_),
            labels_, std::move(buckets)};
  }

 private:
  prometheus::Registry& registry_;
  const prometheus::Labels labels_;
};

}  // namespace sparseserve
