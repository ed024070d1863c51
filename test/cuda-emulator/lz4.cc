#include "lz4.h"

#include <cstdint>

namespace slim::emulator {

namespace {

constexpr size_t kNibble = 15;  // a length of 15 goes on in the bytes that follow
constexpr size_t kLeastMatch = 4;

class Reader {
 public:
  explicit Reader(std::string_view block) : block_(block) {}

  bool atEnd() const { return at_ == block_.size(); }
  size_t left() const { return block_.size() - at_; }
  // 0 beyond the end: lengths stop there, and a distance of 0 is refused.
  uint8_t byte() { return atEnd() ? 0 : uint8_t(block_[at_++]); }
  std::string_view take(size_t count) {
    at_ += count;
    return block_.substr(at_ - count, count);
  }
  size_t length(size_t nibble) {
    size_t length = nibble;
    if (nibble == kNibble)
      for (uint8_t more = 255; more == 255;) length += more = byte();
    return length;
  }

 private:
  std::string_view block_;
  size_t at_ = 0;
};

}  // namespace

bool expandLz4(std::string_view block, size_t bytes, std::string& out) {
  Reader reader(block);
  out.clear();
  while (!reader.atEnd()) {
    const uint8_t token = reader.byte();
    const size_t literals = reader.length(token >> 4);
    if (literals > reader.left() || literals > bytes - out.size()) return false;
    out += reader.take(literals);
    if (reader.atEnd()) break;  // the last run has no copy
    const size_t low = reader.byte(), distance = low | size_t(reader.byte()) << 8;
    const size_t match = reader.length(token & kNibble) + kLeastMatch;
    if (distance == 0 || distance > out.size() || match > bytes - out.size()) return false;
    // Byte by byte: a copy may reach into what it writes.
    for (size_t i = 0; i < match; ++i) out += out[out.size() - distance];
  }
  return out.size() == bytes;
}

}  // namespace slim::emulator
