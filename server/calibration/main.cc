// Measures what plans do to a model on texts, and writes a profile of them.

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/flags/parse.h"
#include "absl/flags/usage.h"
#include "absl/flags/usage_config.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_join.h"
#include "engine/base/status_macros.h"
#include "engine/base/str_cat.h"
#include "engine/pattern/kernel_version.h"
#include "server/calibration/calibration.h"
#include "server/calibration/corpus.h"
#include "server/calibration/length_bands.h"
#include "server/calibration/measurement_store.h"
#include "server/calibration/synthetic_texts.h"
#include "server/rpc/plan_profile_conversion.h"
#include "server/rpc/server_settings.h"

ABSL_FLAG(std::string, model, "",
          "A GGUF file, or a directory as Hugging Face's libraries write it. "
          "Required.");
ABSL_FLAG(std::vector<std::string>, text, {},
          "Files of text like the requests that will be served, separated by "
          "commas; others may follow the flags. Two or more that are as long "
          "as the second of --lengths: half of them is held out.");
ABSL_FLAG(std::string, output, "", "Profile to write. Required.");
ABSL_FLAG(
    std::vector<std::string>, lengths,
    std::vector<std::string>({"512", "2048", "4096", "8192"}),
    "Borders of the bands of lengths, multiples of 64: plans are measured "
    "in each band, and are not for lengths outside of them.");
ABSL_FLAG(int, texts_per_file, 2, "Texts that are cut out of a file at most.");
ABSL_FLAG(int, synthetic_texts, 0,
          "So many generated texts of retrieval and of aggregation besides, as "
          "files of their own: sparse plans lose most on such.");
ABSL_FLAG(double, minutes, 0,
          "Begin no text after so many minutes: fewer texts, wider bounds. 0: "
          "take all.");
ABSL_FLAG(
    std::string, resume, "",
    "File for what was measured: run again with the same flags to go on.");
ABSL_FLAG(uint64_t, seed, 1,
          "The same seed, model and texts give the same profile, unless "
          "--minutes cut it.");
ABSL_FLAG(std::string, device, "cpu", "As the server's flag.");
ABSL_FLAG(int, threads, 0, "As the server's flag; 0: all cores.");
ABSL_FLAG(std::string, compute_dtype, "auto",
          "As the server's flag; should be what is served with.");
ABSL_FLAG(std::string, kv_cache_bytes, "2GiB",
          "Memory for keys and values: those of two texts and a little.");

namespace sparseserve {
namespace {

constexpr char kUsage[] =
    R"(Finds out how much sparse plans change what a model says, and writes a
profile by which the server may choose among them. Holds for this model on
every machine.

  sparseserve-calibrate --model=model.gguf --output=model.textproto \
      --text=book.txt,manual.txt,chats.txt,program.py
  sparseserve-calibrate --model=model.gguf --output=model.textproto \
      --minutes=20 --resume=calibration.jsonl texts/*.txt
  sparseserve-calibrate --model=model.gguf --output=model.textproto \
      --lengths=1024,4096,16384,32768 --kv_cache_bytes=16GiB texts/*.txt
)";

constexpr auto kProgressInterval = std::chrono::seconds(10);

double Seconds() {
  return std::chrono::duration<double>(
             std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

absl::StatusOr<std::vector<LengthBand>> ReadBands(int context_tokens) {
  std::vector<int> borders;
  for (const std::string& text : absl::GetFlag(FLAGS_lengths)) {
    if (!absl::SimpleAtoi(text, &borders.emplace_back())) {
      return absl::InvalidArgumentError(
          StrCat("--lengths has \"", text, "\", which is not a number"));
    }
  }
  return BandsBetween(borders, context_tokens);
}

absl::StatusOr<std::unique_ptr<Engine>> Load() {
  Engine::Options options;
  options.model_path = absl::GetFlag(FLAGS_model);
  if (options.model_path.empty()) {
    return absl::InvalidArgumentError("--model is required");
  }
  options.device = absl::GetFlag(FLAGS_device);
  options.threads = absl::GetFlag(FLAGS_threads);
  options.compute_dtype = absl::GetFlag(FLAGS_compute_dtype);
  ASSIGN_OR_RETURN(options.kv_cache_bytes,
                   ParseByteSize(absl::GetFlag(FLAGS_kv_cache_bytes)));
  options.fingerprint_weights = true;
  options.measure_recall = true;
  return Engine::Create(std::move(options));
}

absl::StatusOr<Corpus> ReadCorpus(const std::vector<std::string>& paths,
                                  const std::vector<LengthBand>& bands,
                                  const Engine& engine) {
  std::vector<TextFile> files;
  for (const std::string& path : paths) {
    ASSIGN_OR_RETURN(std::string text, ReadTextFile(path));
    files.push_back({path, std::move(text)});
  }
  const int synthetic = absl::GetFlag(FLAGS_synthetic_texts);
  if (synthetic < 0 || synthetic > 1000) {
    return absl::InvalidArgumentError(
        StrCat("--synthetic_texts is ", synthetic, ", must be from 0 to 1000"));
  }
  // Tokens of such texts are shorter.
  constexpr size_t kMostBytesOfToken = 6;
  const size_t bytes = kMostBytesOfToken * bands.back().max_tokens();
  for (int i = 0; i < synthetic; ++i) {
    const uint64_t seed = absl::GetFlag(FLAGS_seed) * 1000 + i;
    files.push_back({StrCat("retrieval-", i), RetrievalText(seed, bytes)});
    files.push_back({StrCat("aggregation-", i), AggregationText(seed, bytes)});
  }
  const int per_file = absl::GetFlag(FLAGS_texts_per_file);
  if (per_file < 1 || per_file > 1000) {
    return absl::InvalidArgumentError(
        StrCat("--texts_per_file is ", per_file, ", must be from 1 to 1000"));
  }
  return BuildCorpus(files, engine.tokenizer(),
                     {.bands = bands,
                      .texts_per_file = per_file,
                      .seed = absl::GetFlag(FLAGS_seed)});
}

// A line now and then on standard error.
class ProgressLines {
 public:
  void operator()(const CalibrationProgress& progress) {
    const auto now = std::chrono::steady_clock::now();
    if (now - shown_ < kProgressInterval) return;
    shown_ = now;
    std::fprintf(stderr, "%s: %.0f %% done, about %.0f min left\n",
                 progress.doing.c_str(), 100 * progress.done,
                 std::ceil(progress.seconds_left / 60));
  }

 private:
  std::chrono::steady_clock::time_point shown_ =
      std::chrono::steady_clock::now();
};

// What a file of measurements is of.
std::string PurposeOf(const Engine& engine, const Corpus& corpus) {
  return StrCat("model ", engine.info().weights_sha256, ", ", engine.device(),
                " ", engine.compute_dtype(), ", texts ", corpus.sha256,
                ", lengths ", absl::StrJoin(absl::GetFlag(FLAGS_lengths), ","),
                ", seed ", absl::GetFlag(FLAGS_seed), ", kernels ",
                kKernelVersion);
}

// The lines that a profile begins with.
std::string CommentOn(const CalibrationResult& result, const Corpus& corpus,
                      const Engine& engine) {
  return StrCat("# Written by sparseserve-calibrate, with seed ",
                absl::GetFlag(FLAGS_seed), ", on ", engine.device(), " in ",
                engine.compute_dtype(), ".\n# Plans were chosen on ",
                result.survey_texts, " of ", corpus.calibration.size(),
                " texts and measured on ", result.held_out_texts, " of ",
                corpus.held_out.size(), " others.\n",
                "# proto-file: sparseserve/v1/plan_profile.proto\n"
                "# proto-message: sparseserve.v1.PlanProfile\n");
}

void PrintPlans(const PlanProfile& profile) {
  std::printf(
      "| plan | phase | tokens | density | KL mean / upper / p99 | top-1 | "
      "perplexity | recall mean / p5 |\n|---|---|---|---|---|---|---|---|\n");
  for (const CalibratedPlan& plan : profile.plans) {
    for (int phase = 0; phase < kPhases; ++phase) {
      for (const PlanQuality& band : plan.quality[phase]) {
        double mean = 1;
        double p5 = 1;
        for (const RecallReference& group : band.recall) {
          mean = std::min(mean, group.mean);
          p5 = std::min(p5, group.p5);
        }
        std::printf(
            "| %s | %s | %d to %d | %.2f | %.4f / %.4f / %.2f | %.1f %% | "
            "%+.1f %% | %.3f / %.2f |\n",
            plan.name.c_str(), phase == 0 ? "prompt" : "output",
            band.min_tokens, band.max_tokens, band.density_p50,
            band.divergence_mean, band.divergence_upper, band.divergence_p99,
            100 * band.top1_agreement, 100 * (band.perplexity_ratio - 1), mean,
            p5);
      }
    }
  }
}

absl::Status Run(const std::vector<std::string>& paths) {
  const std::string output = absl::GetFlag(FLAGS_output);
  if (output.empty()) return absl::InvalidArgumentError("--output is required");
  const double minutes = absl::GetFlag(FLAGS_minutes);
  if (!(minutes >= 0 && minutes <= 1e5)) {
    return absl::InvalidArgumentError(
        StrCat("--minutes is ", minutes, ", must be from 0 to 1e5"));
  }
  if (paths.empty()) {
    return absl::InvalidArgumentError(
        "--text is required: what plans do to a model is measured on texts");
  }
  ASSIGN_OR_RETURN(const std::unique_ptr<Engine> engine, Load());
  CalibrationOptions options;
  ASSIGN_OR_RETURN(options.bands, ReadBands(engine->info().context_tokens));
  ASSIGN_OR_RETURN(const Corpus corpus,
                   ReadCorpus(paths, options.bands, *engine));
  std::fprintf(stderr,
               "%s\n%zu texts to choose plans by, %zu to measure them, "
               "%lld tokens in all\n",
               engine->DeviceSummary().c_str(), corpus.calibration.size(),
               corpus.held_out.size(), static_cast<long long>(corpus.tokens));
  ASSIGN_OR_RETURN(const std::unique_ptr<MeasurementStore> store,
                   MeasurementStore::Open(absl::GetFlag(FLAGS_resume),
                                          PurposeOf(*engine, corpus)));
  options.seed = absl::GetFlag(FLAGS_seed);
  options.budget_seconds = 60 * minutes;
  options.stopwatch = Seconds;
  options.progress = ProgressLines();
  ASSIGN_OR_RETURN(const CalibrationResult result,
                   Calibrate(*engine, corpus, options, *store));
  RETURN_IF_ERROR(WritePlanProfile(output, CommentOn(result, corpus, *engine),
                                   result.profile));
  PrintPlans(result.profile);
  std::printf(
      "%d of %zu texts to choose plans by, %d of %zu to measure them: "
      "%.1f min; all of them about %.0f min\n",
      result.survey_texts, corpus.calibration.size(), result.held_out_texts,
      corpus.held_out.size(), result.seconds / 60, result.full_seconds / 60);
  return absl::OkStatus();
}

absl::FlagsUsageConfig UsageConfig() {
  absl::FlagsUsageConfig config;
  config.version_string = [] {
    return StrCat("sparseserve-calibrate ", SPARSESERVE_VERSION, "\n");
  };
  // The path of the build is nobody's business.
  config.normalize_filename = [](absl::string_view file) {
    return std::string(file.substr(file.rfind('/') + 1));
  };
  config.contains_help_flags = [](absl::string_view file) {
    return file == "main.cc";
  };
  return config;
}

}  // namespace
}  // namespace sparseserve

// 2 means that the flags or a file cannot be used.
int main(int argc, char** argv) {
  absl::SetProgramUsageMessage(sparseserve::kUsage);
  absl::SetFlagsUsageConfig(sparseserve::UsageConfig());
  const std::vector<char*> rest = absl::ParseCommandLine(argc, argv);
  std::vector<std::string> paths = absl::GetFlag(FLAGS_text);
  paths.insert(paths.end(), rest.begin() + 1, rest.end());
  const absl::Status status = sparseserve::Run(paths);
  if (status.ok()) return 0;
  std::fprintf(stderr, "sparseserve-calibrate: %s\n",
               std::string(status.message()).c_str());
  return 2;
}
