#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <fstream>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/metrics/metrics.h"

namespace sparseserve {
namespace {

using ::testing::HasSubstr;

Metrics::Options ServedModel() {
  Metrics::Options options;
  options.model_name = "small";
  options.version = "0.1.0";
  options.page_tokens = kPageTokens;
  options.plans = {"dense", "balanced"};
  options.kv_pages = 128;
  for (int i = 0; i < 10; ++i) {
    options.grpc_methods.push_back(absl::StrCat("package.Service/Method", i));
  }
  return options;
}

// What the server's calls end with.
constexpr int kStatuses[] = {0, 1, 3, 4, 5, 7, 8, 9, 12, 13, 14, 16};

// Every method has ended with every status, two have written streams, every
// pattern that one model may run with was sampled, and every plan has had
// targets in every class of prompts.
void CallEverything(Metrics& metrics, const Metrics::Options& options) {
  for (const PatternSpec& pattern : EveryPattern()) {
    if (TraitsOf(pattern).is_trained_in) continue;
    metrics.Recall(static_cast<int>(pattern.index()), {0.5f});
  }
  for (int plan = 0; plan < static_cast<int>(options.plans.size()); ++plan) {
    for (const int tokens : {1, 2'000, 9'000, 50'000, 200'000, 500'000}) {
      metrics.PlanTarget({.plan = plan, .prompt_tokens = tokens});
    }
  }
  for (const int stream : {0, 1}) {
    metrics.StreamBlocked(options.grpc_methods[stream], absl::Milliseconds(1));
  }
  std::vector<std::string> methods = options.grpc_methods;
  methods.push_back("unknown");
  for (const std::string& method : methods) {
    for (const int status : kStatuses) {
      metrics.CallFinished(method, status, absl::Milliseconds(3));
    }
  }
}

// What promtool says of an exposition; empty if it finds nothing.
std::string Promtool(const std::string& exposition) {
  const std::string path =
      absl::StrCat(::testing::TempDir(), "/exposition.", getpid());
  std::ofstream(path) << exposition;
  FILE* pipe = popen(
      absl::StrCat("promtool check metrics < '", path, "' 2>&1").c_str(), "r");
  std::string output;
  char buffer[256];
  while (pipe != nullptr && fgets(buffer, sizeof(buffer), pipe) != nullptr) {
    output += buffer;
  }
  const int status = pipe == nullptr ? -1 : pclose(pipe);
  unlink(path.c_str());
  if (status != 0 && output.empty()) {
    output = absl::StrCat("promtool ended with status ", status);
  }
  return output;
}

struct Family {
  std::string type;
  std::set<std::string> labels;
  bool operator==(const Family&) const = default;
};

void PrintTo(const Family& family, std::ostream* out) {
  *out << family.type << " {";
  for (const std::string& label : family.labels) *out << " " << label;
  *out << " }";
}

std::map<std::string, Family> ParseExposition(const std::string& text) {
  std::map<std::string, Family> families;
  std::string name;
  for (absl::string_view line : absl::StrSplit(text, '\n')) {
    if (absl::ConsumePrefix(&line, "# TYPE ")) {
      const std::vector<std::string> words = absl::StrSplit(line, ' ');
      name = words[0];
      families[name].type = words[1];
    } else if (!line.empty() && !absl::StartsWith(line, "#")) {
      const size_t open = line.find('{');
      if (open == line.npos) continue;
      const size_t close = line.rfind('}');
      for (absl::string_view pair :
           absl::StrSplit(line.substr(open + 1, close - open - 1), "\",",
                          absl::SkipEmpty())) {
        const std::string label(pair.substr(0, pair.find('=')));
        if (label != "le") families[name].labels.insert(label);
      }
    }
  }
  return families;
}

// Rows "| `name` | type | `label` ... | meaning |" of the folder's README.
std::map<std::string, Family> ParseReadme() {
  std::ifstream file("server/metrics/README.md");
  std::map<std::string, Family> families;
  std::string line;
  while (std::getline(file, line)) {
    const std::vector<std::string> cells = absl::StrSplit(line, '|');
    if (cells.size() != 6) continue;
    const std::vector<std::string> name =
        absl::StrSplit(cells[1], absl::ByAnyChar(" `"), absl::SkipEmpty());
    if (name.size() != 1 || name[0] == "metric" || name[0] == "---") continue;
    Family& family = families[name[0]];
    family.type = std::string(absl::StripAsciiWhitespace(cells[2]));
    for (absl::string_view label :
         absl::StrSplit(cells[3], absl::ByAnyChar(" `"), absl::SkipEmpty())) {
      family.labels.insert(std::string(label));
    }
  }
  return families;
}

TEST(MetricsExpositionTest, PromtoolFindsNothingToSay) {
  const Metrics::Options options = ServedModel();
  Metrics metrics(options);
  EXPECT_EQ(Promtool(metrics.Serialize()), "");
  CallEverything(metrics, options);
  metrics.Step({});
  metrics.Finished({});
  EXPECT_EQ(Promtool(metrics.Serialize()), "");
}

TEST(MetricsExpositionTest, PromtoolWouldObject) {
  EXPECT_NE(Promtool("# HELP bad_ms x\n# TYPE bad_ms counter\nbad_ms 1\n"), "");
}

TEST(MetricsExpositionTest, LabelsFromOutsideStayShortPrintableText) {
  Metrics::Options options = ServedModel();
  options.model_name = "a\"b\\c\nd\xff" + std::string(1000, 'x');
  options.grpc_methods = {"odd\"\n"};
  const Metrics metrics(options);
  const std::string text = metrics.Serialize();
  EXPECT_EQ(Promtool(text), "");
  EXPECT_THAT(text, HasSubstr("model_name=\"a\\\"b\\\\c?d?xxx"));
  for (absl::string_view line : absl::StrSplit(text, '\n')) {
    ASSERT_LT(line.size(), 400u) << line;
  }
}

TEST(MetricsExpositionTest, ReadmeListsWhatAScrapeShowsAndNothingElse) {
  const Metrics::Options options = ServedModel();
  Metrics metrics(options);
  CallEverything(metrics, options);
  const std::map<std::string, Family> shown =
      ParseExposition(metrics.Serialize());
  const std::map<std::string, Family> listed = ParseReadme();
  for (const auto& [name, family] : shown) {
    ASSERT_TRUE(listed.contains(name)) << name << " is not in the README";
    EXPECT_EQ(family, listed.at(name)) << name;
  }
  for (const auto& [name, family] : listed) {
    EXPECT_TRUE(shown.contains(name)) << name << " is not in the exposition";
  }
}

TEST(MetricsExpositionTest, WorstCaseStaysWithinTheLabelBudget) {
  Metrics::Options options = ServedModel();
  while (options.plans.size() < 33) {
    options.plans.push_back(absl::StrCat("plan", options.plans.size()));
  }
  Metrics metrics(options);
  CallEverything(metrics, options);
  const std::string text = metrics.Serialize();
  int series = 0;
  for (absl::string_view line : absl::StrSplit(text, '\n', absl::SkipEmpty())) {
    if (!absl::StartsWith(line, "#")) ++series;
  }
  EXPECT_GT(series, 1000);
  EXPECT_LE(series, 5000);
}

// Eight plans beside dense, targets in two classes of prompts, three patterns
// that were sampled, and methods that ended with three statuses each.
TEST(MetricsExpositionTest, FourModelsStayWithinTheLabelBudget) {
  Metrics::Options options = ServedModel();
  for (int i = 0; i < 7; ++i) options.plans.push_back(absl::StrCat("plan", i));
  Metrics metrics(options);
  for (int plan = 0; plan < static_cast<int>(options.plans.size()); ++plan) {
    metrics.PlanTarget({.plan = plan, .prompt_tokens = 100});
    metrics.PlanTarget({.plan = plan, .prompt_tokens = 2000});
  }
  for (const int pattern : {1, 2, 3}) metrics.Recall(pattern, {0.5f});
  metrics.StreamBlocked(options.grpc_methods[0], absl::Milliseconds(1));
  for (const std::string& method : options.grpc_methods) {
    for (const int status : {0, 1, 14}) {
      metrics.CallFinished(method, status, absl::Milliseconds(3));
    }
  }
  int of_model = 0, of_process = 0;
  const std::string text = metrics.Serialize();
  for (absl::string_view line : absl::StrSplit(text, '\n', absl::SkipEmpty())) {
    if (absl::StartsWith(line, "#")) continue;
    ++(absl::StrContains(line, "model_name=") ? of_model : of_process);
  }
  EXPECT_GT(of_model, 800);
  EXPECT_LE(4 * of_model + of_process, 5000)
      << of_model << " of a model, " << of_process << " of the process";
}

TEST(MetricsExpositionTest, ProcessMetricsAreOfThisProcess) {
  const Metrics metrics(ServedModel());
  const std::string text = metrics.Serialize();
  std::map<std::string, double> values;
  for (absl::string_view line : absl::StrSplit(text, '\n')) {
    const std::vector<std::string> words = absl::StrSplit(line, ' ');
    if (words.size() == 2) values[words[0]] = std::stod(words[1]);
  }
  EXPECT_GT(values["process_cpu_seconds_total"], 0);
  EXPECT_GT(values["process_resident_memory_bytes"], 1 << 20);
  EXPECT_GE(values["process_open_fds"], 3);
  EXPECT_GE(values["process_max_fds"], values["process_open_fds"]);
  // After 2020, before now.
  EXPECT_GT(values["process_start_time_seconds"], 1.577e9);
  EXPECT_LE(values["process_start_time_seconds"],
            static_cast<double>(time(nullptr)) + 1);
  EXPECT_GE(values["sparseserve_memory_limit_bytes{device=\"cpu\"}"],
            values["process_resident_memory_bytes"]);
}

}  // namespace
}  // namespace sparseserve
