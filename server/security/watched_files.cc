#include "server/security/watched_files.h"

#include <sys/stat.h>

#include <fstream>
#include <sstream>
#include <utility>

#include "absl/memory/memory.h"
#include "engine/base/status_macros.h"
#include "engine/base/str_cat.h"

namespace sparseserve {
namespace {

// Differs when a file was written or replaced.
std::string VersionOf(const std::vector<std::string>& paths) {
  std::string version;
  for (const std::string& path : paths) {
    struct stat file = {};
    if (stat(path.c_str(), &file) != 0) {
      version += "-;";
      continue;
    }
    version += StrCat(file.st_dev, ",", file.st_ino, ",", file.st_size, ",",
                      file.st_mtim.tv_sec, ".", file.st_mtim.tv_nsec, ",",
                      file.st_ctim.tv_sec, ".", file.st_ctim.tv_nsec, ";");
  }
  return version;
}

absl::StatusOr<std::string> ReadFile(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::string text;
  text.resize(WatchedFiles::kMostBytes + 1);
  file.read(text.data(), static_cast<std::streamsize>(text.size()));
  if (!file.is_open() || file.bad()) {
    return absl::NotFoundError(StrCat("cannot read ", path));
  }
  text.resize(static_cast<size_t>(file.gcount()));
  if (text.size() > WatchedFiles::kMostBytes) {
    return absl::InvalidArgumentError(
        StrCat(path, " has more than ", WatchedFiles::kMostBytes, " bytes"));
  }
  return text;
}

absl::Status Load(const WatchedFiles::Set& set) {
  std::vector<std::string> contents;
  std::string names;
  for (const std::string& path : set.paths) {
    ASSIGN_OR_RETURN(std::string text, ReadFile(path));
    contents.push_back(std::move(text));
    names += StrCat(names.empty() ? "" : ", ", path);
  }
  const absl::Status status = set.load(contents);
  if (status.ok()) return status;
  return absl::Status(status.code(),
                      StrCat(names, ": ", std::string(status.message())));
}

}  // namespace

absl::StatusOr<std::unique_ptr<WatchedFiles>> WatchedFiles::Start(
    std::vector<Set> sets, absl::Duration interval) {
  auto files = absl::WrapUnique(new WatchedFiles(std::move(sets)));
  for (size_t i = 0; i < files->sets_.size(); ++i) {
    MutexLock lock(files->mu_);
    // Before it is read: what changes meanwhile is read again.
    files->versions_.push_back(VersionOf(files->sets_[i].paths));
    RETURN_IF_ERROR(Load(files->sets_[i]));
  }
  if (!files->sets_.empty()) {
    files->thread_ =
        std::thread([self = files.get(), interval] { self->Run(interval); });
  }
  return files;
}

WatchedFiles::WatchedFiles(std::vector<Set> sets) : sets_(std::move(sets)) {}

WatchedFiles::~WatchedFiles() {
  {
    MutexLock lock(mu_);
    stop_ = true;
  }
  changed_.NotifyAll();
  if (thread_.joinable()) thread_.join();
}

void WatchedFiles::Look() {
  MutexLock lock(mu_);
  for (size_t i = 0; i < versions_.size(); ++i) {
    std::string version = VersionOf(sets_[i].paths);
    if (version == versions_[i]) continue;
    const absl::Status loaded = Load(sets_[i]);
    // What may be the machine's fault, not the files', is tried again.
    const bool is_passing = absl::IsUnavailable(loaded) ||
                            absl::IsResourceExhausted(loaded) ||
                            absl::IsInternal(loaded);
    if (!is_passing) versions_[i] = std::move(version);
    sets_[i].on_reload(loaded);
  }
}

void WatchedFiles::Run(absl::Duration interval) {
  while (true) {
    {
      MutexLock lock(mu_);
      if (!stop_) changed_.WaitFor(mu_, absl::ToChronoNanoseconds(interval));
      if (stop_) return;
    }
    Look();
  }
}

}  // namespace sparseserve
