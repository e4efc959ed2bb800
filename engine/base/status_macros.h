#pragma once

// The distribution's Abseil predates ABSL_RETURN_IF_ERROR.

#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

#define SPARSESERVE_CONCAT_INNER(a, b) a##b
#define SPARSESERVE_CONCAT(a, b) SPARSESERVE_CONCAT_INNER(a, b)

// Returns from the enclosing function if `expr` is not OK.
#define RETURN_IF_ERROR(expr)                           \
  do {                                                  \
    if (absl::Status status_ = (expr); !status_.ok()) { \
      return status_;                                   \
    }                                                   \
  } while (false)

// ASSIGN_OR_RETURN(auto file, Open(path)): assigns, or returns the error.
#define ASSIGN_OR_RETURN(lhs, expr) \
  ASSIGN_OR_RETURN_INNER(SPARSESERVE_CONCAT(status_or_, __LINE__), lhs, expr)
#define ASSIGN_OR_RETURN_INNER(status_or, lhs, expr)         \
  auto status_or = (expr);                                   \
  if (!status_or.ok()) return std::move(status_or).status(); \
  lhs = std::move(status_or).value()
