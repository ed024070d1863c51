// The block format of LZ4 (lz4_Block_format.md): runs of literals, each followed by a copy of earlier output.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace slim::emulator {

// Expands a block to exactly `bytes` bytes; false if the block is damaged.
bool expandLz4(std::string_view block, size_t bytes, std::string& out);

}  // namespace slim::emulator
