// Rules of sparse attention against the modules of transformers that they
// describe; see tests/golden/README.md.

#include <algorithm>
#include <cmath>
#include <functional>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "tests/testing/content_rules.h"
#include "tests/testing/encoder_rules.h"
#include "tests/testing/oracle_report.h"
#include "tests/testing/pattern_golden.h"

namespace sparseserve::testing {
namespace {

using Case = PatternGolden::Case;

// What the rule says of one head of a case.
struct HeadRule {
  std::function<VisibleKeys(int64_t row)> keys;
  // With the head's own values, or those given.
  std::function<AttendedRow(int64_t row, const Rows* values)> attend;
  int64_t tokens = 0;
  // Of rows that are padding nothing is said.
  std::function<bool(int64_t row)> defined = [](int64_t) { return true; };
  std::function<double(int64_t row)> bound = [](int64_t) { return 1e-12; };
};

double DistanceOfRows(absl::Span<const double> found,
                      absl::Span<const double> wanted) {
  double difference = 0;
  double size = 0;
  for (size_t c = 0; c < wanted.size(); ++c) {
    difference += (found[c] - wanted[c]) * (found[c] - wanted[c]);
    size += wanted[c] * wanted[c];
  }
  return std::sqrt(difference / size);
}

// As values: outputs are then the weights of the keys.
Rows Identity(int64_t tokens) {
  Rows rows{tokens, tokens, std::vector<double>(tokens * tokens)};
  for (int64_t i = 0; i < tokens; ++i) rows.values[i * tokens + i] = 1;
  return rows;
}

// Compares a system's cases head by head, row by row, and reports the worst.
class Comparison {
 public:
  explicit Comparison(const std::string& system)
      : system_(system),
        golden_(system),
        module_(system, "module"),
        released_(system, "released") {}

  const PatternGolden& golden() const { return golden_; }

  void Compare(const Case& from, int64_t head, const HeadRule& rule) {
    SCOPED_TRACE(system_ + "/" + from.name());
    if (head == 0) module_.AddCase();
    const Rows output = golden_.Heads(from, "output")[head];
    const bool has_matrix = golden_.Has(from, "probabilities");
    const Rows matrix =
        has_matrix ? golden_.Heads(from, "probabilities")[head] : Rows{};
    const bool is_released = golden_.Has(from, "released");
    const Rows as_released =
        is_released ? golden_.Heads(from, "released")[head] : Rows{};
    const bool has_sets = golden_.Has(from, "visible");
    const Rows identity = Identity(rule.tokens);
    ASSERT_EQ(output.count, rule.tokens);
    for (int64_t row = 0; row < rule.tokens; ++row) {
      if (!rule.defined(row)) continue;
      const AttendedRow attended = rule.attend(row, nullptr);
      const double error = DistanceOfRows(attended.output, output[row]);
      EXPECT_LE(error, rule.bound(row)) << "head " << head << " row " << row;
      module_.AddRow(error);
      if (is_released) {
        const double released =
            DistanceOfRows(attended.output, as_released[row]);
        EXPECT_LE(released, 2e-6) << "head " << head << " row " << row;
        released_.AddRow(released);
      }
      if (has_matrix) {
        EXPECT_LE(
            DistanceOfRows(rule.attend(row, &identity).output, matrix[row]),
            rule.bound(row))
            << "head " << head << " row " << row;
      }
      if (has_sets) CompareSet(from, head, row, rule);
    }
  }

  ~Comparison() { EXPECT_GT(module_.rows(), 0); }

 private:
  void CompareSet(const Case& from, int64_t head, int64_t row,
                  const HeadRule& rule) {
    std::vector<bool> seen(rule.tokens);
    for (const VisibleKey& key : rule.keys(row)) {
      seen[key.key] = key.bias != SwinRule::kOtherRegion;
    }
    const std::vector<bool> wanted =
        golden_.Visible(from, head, row, rule.tokens);
    for (int64_t key = 0; key < rule.tokens; ++key) {
      EXPECT_EQ(seen[key], wanted[key])
          << "head " << head << " row " << row << " key " << key;
    }
  }

  std::string system_;
  PatternGolden golden_;
  OracleReport module_;
  OracleReport released_;
};

double Scale(const Rows& queries) {
  return 1 / std::sqrt(static_cast<double>(queries.columns));
}

void CompareLongformer(const std::string& system) {
  Comparison comparison(system);
  const PatternGolden& golden = comparison.golden();
  for (const Case& from : golden.cases()) {
    LongformerRule rule;
    rule.one_sided_window = from.parameters.at("one_sided_window");
    rule.real = from.real();
    rule.global.resize(rule.real.size());
    for (const int64_t token : from.parameters.at("global_set")) {
      rule.global[token] = true;
    }
    const auto q = golden.Heads(from, "q");
    const auto k = golden.Heads(from, "k");
    const auto v = golden.Heads(from, "v");
    const bool has_global = golden.Has(from, "global_q");
    const auto global = [&](const char* name, const std::vector<Rows>& local) {
      return has_global ? golden.Heads(from, name) : local;
    };
    const auto global_q = global("global_q", q);
    const auto global_k = global("global_k", k);
    const auto global_v = global("global_v", v);
    for (size_t h = 0; h < q.size(); ++h) {
      HeadRule head;
      head.tokens = q[h].count;
      head.defined = [&](int64_t row) { return rule.real[row]; };
      // The module's matrix of weights has no rows of global tokens: it was
      // found from outputs, which have.
      head.keys = [&](int64_t row) { return rule.Keys(row); };
      head.attend = [&](int64_t row, const Rows* values) {
        return rule.global[row]
                   ? AttendRow(global_q[h][row], global_k[h],
                               values != nullptr ? *values : global_v[h],
                               Scale(q[h]), rule.Keys(row))
                   : AttendRow(q[h][row], k[h],
                               values != nullptr ? *values : v[h], Scale(q[h]),
                               rule.Keys(row));
      };
      comparison.Compare(from, static_cast<int64_t>(h), head);
      // Rows of padding are zero.
      const Rows output = golden.Heads(from, "output")[h];
      for (int64_t row = 0; row < head.tokens; ++row) {
        if (rule.real[row]) continue;
        for (const double value : output[row]) EXPECT_EQ(value, 0);
      }
    }
  }
}

TEST(PatternRulesGoldenTest, LongformerAsTransformers) {
  CompareLongformer("longformer");
  CompareLongformer("longformer_blocks");
}

TEST(PatternRulesGoldenTest, LedEncoderAsTransformers) {
  CompareLongformer("led");
}

TEST(PatternRulesGoldenTest, BigBirdAsTransformers) {
  Comparison comparison("big_bird");
  const PatternGolden& golden = comparison.golden();
  for (const Case& from : golden.cases()) {
    BigBirdRule rule;
    rule.block = from.parameters.at("block");
    rule.real = from.real();
    const auto q = golden.Heads(from, "q");
    const auto k = golden.Heads(from, "k");
    const auto v = golden.Heads(from, "v");
    for (size_t h = 0; h < q.size(); ++h) {
      rule.random_blocks = golden.Indices(from, "random_blocks")[h];
      HeadRule head;
      head.tokens = q[h].count;
      head.defined = [&](int64_t row) { return rule.real[row]; };
      head.keys = [&](int64_t row) { return rule.Keys(row); };
      head.attend = [&](int64_t row, const Rows* values) {
        return AttendRow(q[h][row], k[h], values != nullptr ? *values : v[h],
                         Scale(q[h]), rule.Keys(row));
      };
      comparison.Compare(from, static_cast<int64_t>(h), head);
      const auto gathered = golden.Indices(from, "gathered")[h];
      for (size_t row = 0; row < gathered.size(); ++row) {
        std::vector<int64_t> counts(gathered.size());
        for (const VisibleKey& seen : rule.Blocks(static_cast<int64_t>(row))) {
          counts[seen.key] = static_cast<int64_t>(seen.count);
        }
        EXPECT_EQ(counts, gathered[row]) << from.name() << " row " << row;
      }
    }
  }
}

// Keys as the module makes them of the vectors that are its queries too.
Rows NormalisedKeys(Rows rows) {
  const double scale = Scale(rows);
  for (int64_t r = 0; r < rows.count; ++r) {
    double squares = 0;
    for (const double value : rows[r]) squares += value * value;
    const double mean = squares / static_cast<double>(rows.columns);
    for (int64_t c = 0; c < rows.columns; ++c) {
      rows.values[r * rows.columns + c] *= scale / std::sqrt(mean + 1e-6);
    }
  }
  return rows;
}

void CompareReformerLsh(const std::string& system) {
  Comparison comparison(system);
  const PatternGolden& golden = comparison.golden();
  for (const Case& from : golden.cases()) {
    ReformerLshRule rule;
    rule.chunk = from.parameters.at("chunk");
    rule.chunks_before = from.parameters.at("before");
    rule.chunks_after = from.parameters.at("after");
    rule.causal = from.parameters.at("causal");
    rule.real = from.real();
    const bool sorts = golden.Has(from, "buckets");
    const int64_t rounds = sorts ? int64_t{from.parameters.at("rounds")} : 1;
    const auto q = golden.Heads(from, "q");
    const auto v = golden.Heads(from, "v");
    for (size_t h = 0; h < q.size(); ++h) {
      if (sorts) {
        // [heads, rounds, tokens], and without rounds the order.
        rule.buckets = golden.Indices(from, "buckets")[h];
        EXPECT_EQ(rule.Order(), golden.Indices(from, "sorted")[0][h])
            << from.name();
      }
      const Rows keys = NormalisedKeys(q[h]);
      HeadRule head;
      head.tokens = q[h].count;
      head.bound = [&](int64_t row) {
        // The module finds a weight of 1 by logarithms of -1e5, whose last bit
        // is 1.5e-11.
        return rule.Keys(0, row)[0].bias == 0 ? 1e-12 : 1.5e-11;
      };
      head.keys = [&](int64_t row) {
        // What a round sees only for want of others counts if all rounds do.
        std::vector<int64_t> all, self;
        for (int64_t round = 0; round < rounds; ++round) {
          for (const VisibleKey& seen : rule.Keys(round, row)) {
            (seen.bias == 0 ? all : self).push_back(seen.key);
          }
        }
        return CountKeys(all.empty() ? self : all);
      };
      head.attend = [&](int64_t row, const Rows* values) {
        std::vector<AttendedRow> parts;
        for (int64_t round = 0; round < rounds; ++round) {
          parts.push_back(AttendRow(q[h][row], keys,
                                    values != nullptr ? *values : v[h], 1,
                                    rule.Keys(round, row)));
        }
        return MergeByLse(parts);
      };
      comparison.Compare(from, static_cast<int64_t>(h), head);
    }
  }
}

TEST(PatternRulesGoldenTest, ReformerLshAsTransformers) {
  CompareReformerLsh("reformer_lsh");
  CompareReformerLsh("reformer_blocks");
}

TEST(PatternRulesGoldenTest, ReformerLocalAsTransformers) {
  Comparison comparison("reformer_local");
  const PatternGolden& golden = comparison.golden();
  for (const Case& from : golden.cases()) {
    const ReformerLocalRule rule{.chunk = from.parameters.at("chunk"),
                                 .chunks_before = from.parameters.at("before"),
                                 .chunks_after = from.parameters.at("after"),
                                 .causal = from.parameters.at("causal"),
                                 .real = from.real()};
    const auto q = golden.Heads(from, "q");
    const auto k = golden.Heads(from, "k");
    const auto v = golden.Heads(from, "v");
    for (size_t h = 0; h < q.size(); ++h) {
      HeadRule head;
      head.tokens = q[h].count;
      head.defined = [&](int64_t row) { return rule.real[row]; };
      head.keys = [&](int64_t row) { return rule.Keys(row); };
      head.attend = [&](int64_t row, const Rows* values) {
        return AttendRow(q[h][row], k[h], values != nullptr ? *values : v[h],
                         Scale(q[h]), rule.Keys(row));
      };
      comparison.Compare(from, static_cast<int64_t>(h), head);
    }
  }
}

void CompareSwin(const std::string& system) {
  Comparison comparison(system);
  const PatternGolden& golden = comparison.golden();
  for (const Case& from : golden.cases()) {
    SwinRule rule;
    rule.window = from.parameters.at("used_window");
    rule.shift = from.parameters.at("used_shift");
    const auto padded = [&](const char* side) {
      const int64_t length = from.parameters.at(side);
      return (length + rule.window - 1) / rule.window * rule.window;
    };
    rule.height = padded("height");
    rule.width = padded("width");
    const SwinRule without_bias = rule;
    const Rows bias = golden.Heads(from, "bias")[0];
    const auto q = golden.Heads(from, "q");
    const auto k = golden.Heads(from, "k");
    const auto v = golden.Heads(from, "v");
    for (size_t h = 0; h < q.size(); ++h) {
      rule.bias_table.clear();
      for (int64_t r = 0; r < bias.count; ++r) {
        rule.bias_table.push_back(bias[r][h]);
      }
      HeadRule head;
      head.tokens = q[h].count;
      head.keys = [&](int64_t row) { return without_bias.Keys(row); };
      head.attend = [&](int64_t row, const Rows* values) {
        return AttendRow(q[h][row], k[h], values != nullptr ? *values : v[h],
                         Scale(q[h]), rule.Keys(row));
      };
      comparison.Compare(from, static_cast<int64_t>(h), head);
    }
  }
}

TEST(PatternRulesGoldenTest, SwinAsTransformers) {
  CompareSwin("swin");
  CompareSwin("swin_blocks");
}

TEST(PatternRulesGoldenTest, MistralWindowAsTransformers) {
  Comparison comparison("mistral");
  const PatternGolden& golden = comparison.golden();
  for (const Case& from : golden.cases()) {
    const int64_t window = from.parameters.at("window");
    const std::vector<bool> real = from.real();
    const auto q = golden.Heads(from, "q");
    const auto k = golden.Heads(from, "k");
    const auto v = golden.Heads(from, "v");
    for (size_t h = 0; h < q.size(); ++h) {
      const size_t kv_head = h * k.size() / q.size();
      HeadRule head;
      head.tokens = q[h].count;
      head.defined = [&](int64_t row) { return real[row]; };
      head.keys = [&](int64_t row) {
        VisibleKeys keys;
        for (int64_t key = std::max<int64_t>(0, row - window + 1); key <= row;
             ++key) {
          if (real[key]) keys.push_back({.key = key});
        }
        return keys;
      };
      head.attend = [&](int64_t row, const Rows* values) {
        return AttendRow(q[h][row], k[kv_head],
                         values != nullptr ? *values : v[kv_head], Scale(q[h]),
                         head.keys(row));
      };
      comparison.Compare(from, static_cast<int64_t>(h), head);
    }
  }
}

}  // namespace
}  // namespace sparseserve::testing
