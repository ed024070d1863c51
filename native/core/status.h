// The result of a native operation. Native code returns one; it never prints, throws for control flow, or
// exits.
#pragma once
#include <atomic>
#include <string>
#include <utility>

namespace slim {

/// Success, or an error with a stable code (SLIM_…) and the fields that lib/errors.ts turns into a SlimError.
struct [[nodiscard]] Status {
  std::string code;  // empty: success
  std::string message;
  std::string parameter, expected, received, remedy;  // may be empty

  bool ok() const { return code.empty(); }

  static Status success() { return {}; }
  static Status error(std::string code, std::string message) {
    Status s;
    s.code = std::move(code);
    s.message = std::move(message);
    return s;
  }
  static Status invalidArgument(std::string parameter, std::string expected, std::string received,
                                std::string remedy = "") {
    Status s = error("SLIM_INVALID_ARGUMENT",
                     "Expected " + expected + " for " + parameter + " but received " + received);
    s.parameter = std::move(parameter);
    s.expected = std::move(expected);
    s.received = std::move(received);
    s.remedy = std::move(remedy);
    return s;
  }
  static Status aborted() { return error("SLIM_ABORTED", "The operation was aborted"); }
};

/// Set from the JavaScript thread; long loops look at it and return Status::aborted().
using CancelFlag = std::atomic<bool>;

}  // namespace slim

#define SLIM_RETURN_IF_ERROR(expression)                                               \
  do {                                                                                 \
    if (::slim::Status slimStatus = (expression); !slimStatus.ok()) return slimStatus; \
  } while (0)
