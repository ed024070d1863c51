#include "fatbin.h"

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "lz4.h"

namespace slim::emulator {

namespace {

constexpr uint32_t kFatbinMagic = 0xBA55ED50;
constexpr uint16_t kKindPtx = 1;
// Flags of an entry whose payload is not stored as it is.
constexpr uint64_t kFlagLz4 = 0x2000, kFlagZstd = 0x8000;

struct FatbinHeader {
  uint32_t magic;
  uint16_t version, headerSize;
  uint64_t bytes;
};

struct EntryHeader {
  uint16_t kind, version;
  uint32_t headerSize;
  uint64_t bytes;
  uint32_t compressedBytes, reserved;
  uint16_t minor, major;
  uint32_t capability, nameOffset, nameBytes;
  uint64_t flags, zero, uncompressedBytes;
};

}  // namespace

std::string findPtx(const void* image, int computeCapability, std::string& text) {
  const auto* bytes = static_cast<const char*>(image);
  FatbinHeader header;
  std::memcpy(&header.magic, bytes, sizeof header.magic);
  if (header.magic != kFatbinMagic) {
    if (std::memcmp(bytes,
                    "\x7f"
                    "ELF",
                    4) == 0) {
      return "the image is a cubin (machine code); the emulator runs PTX: load a fatbin with a PTX entry, or "
             "PTX text";
    }
    text = bytes;
    if (text.find(".version") == std::string::npos) return "the image is neither a fatbin nor PTX text";
    return "";
  }
  std::memcpy(&header, bytes, sizeof header);
  uint32_t best = 0;
  std::string seen;
  EntryHeader chosen{};
  std::string_view payload;
  for (uint64_t at = header.headerSize; at + sizeof(EntryHeader) <= header.headerSize + header.bytes;) {
    EntryHeader entry;
    std::memcpy(&entry, bytes + at, sizeof entry);
    if (entry.headerSize < sizeof entry || entry.bytes > header.bytes)
      return "the fatbin's entries are damaged";
    seen += (seen.empty() ? "" : ", ") + std::string(entry.kind == kKindPtx ? "PTX " : "machine code ") +
            std::to_string(entry.capability);
    if (entry.kind == kKindPtx && entry.capability <= static_cast<uint32_t>(computeCapability) &&
        entry.capability >= best) {
      best = entry.capability;
      chosen = entry;
      payload = std::string_view(bytes + at + entry.headerSize, entry.bytes);
    }
    at += entry.headerSize + entry.bytes;
  }
  if (best == 0) {
    return "the fatbin has no PTX for compute capability " + std::to_string(computeCapability) +
           " or below (it has: " + seen + "); add -gencode arch=compute_80,code=compute_80";
  }
  if (chosen.flags & kFlagZstd)
    return "the fatbin's PTX is compressed by zstd; build it with nvcc --compress-mode=speed (LZ4) or none";
  if (chosen.flags & kFlagLz4) {
    if (chosen.compressedBytes > payload.size() ||
        !expandLz4(payload.substr(0, chosen.compressedBytes), chosen.uncompressedBytes, text))
      return "the fatbin's compressed PTX is damaged";
  } else {
    text = payload;
  }
  text.resize(std::min(text.size(), text.find('\0')));
  return "";
}

}  // namespace slim::emulator
