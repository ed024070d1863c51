#include "findings.h"

#include <cstdio>
#include <cstdlib>
#include <deque>
#include <map>

namespace slim::emulator {

namespace {

// Texts are never dropped, for the driver's contract is that the pointer stays valid; findings are few.
std::deque<std::string>& texts() {
  static auto* kept = new std::deque<std::string>;
  return *kept;
}

std::map<int, const char*>& latest() {
  static auto* byCode = new std::map<int, const char*>;
  return *byCode;
}

}  // namespace

void rememberError(int code, const std::string& text) {
  texts().push_back(text);
  latest()[code] = texts().back().c_str();
}

const char* rememberedError(int code) {
  const auto found = latest().find(code);
  return found == latest().end() ? nullptr : found->second;
}

void recordFinding(const Finding& finding) {
  rememberError(finding.code, finding.text);
  const char* path = std::getenv("SLIM_EMULATOR_FINDINGS");
  if (path == nullptr) return;
  if (FILE* file = std::fopen(path, "a")) {
    std::fprintf(file, "{\"kind\": %s, \"code\": %d, \"text\": %s}\n", jsonString(finding.kind).c_str(),
                 finding.code, jsonString(finding.text).c_str());
    std::fclose(file);
  }
}

std::string hexadecimal(uint64_t value) {
  char text[24];
  std::snprintf(text, sizeof text, "0x%llx", static_cast<unsigned long long>(value));
  return text;
}

std::string laneList(uint32_t mask) {
  std::string list;
  int lanes = 0;
  for (int from = 0; from < 32; from++) {
    if (!(mask >> from & 1)) continue;
    int to = from;
    while (to < 31 && (mask >> (to + 1) & 1)) to++;
    lanes += to - from + 1;
    list += (list.empty() ? "" : ",") + std::to_string(from) + (to > from ? "-" + std::to_string(to) : "");
    from = to;
  }
  return (lanes == 1 ? "lane " : "lanes ") + list;
}

std::string jsonString(const std::string& text) {
  std::string json = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') json += '\\';
    if (c == '\n')
      json += "\\n";
    else if (c == '\t')
      json += ' ';
    else
      json += c;
  }
  return json + '"';
}

}  // namespace slim::emulator
