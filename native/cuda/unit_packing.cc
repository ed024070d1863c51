#include "cuda/unit_packing.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>

#include "quant/groups.h"

namespace slim::cuda {

UnitPlan::UnitPlan(const PackedMatrix& source) {
  const size_t groupSize = source.groupSize();
  slotColumns = groupSize <= 32 ? 32 : groupSize <= 64 ? 64 : 128;
  const Groups groups{source.cols(), groupSize};
  for (int width = 0; width < kWidths; ++width) {
    const auto bits = uint16_t(widthBits(width));
    runBegin[width] = uint32_t(slots.size() / slotsOfUnit());
    for (size_t g = 0; g < groups.count(); ++g) {
      if (widthIndex(source.groupBits()->data()[g]) != width) continue;
      for (size_t start = 0; start < groups.width(g); start += slotColumns) {
        const size_t columns = std::min<size_t>(slotColumns, groups.width(g) - start);
        sources.push_back({g, start, columns});
        slots.push_back({uint32_t(groups.begin(g) + start), uint16_t(columns), bits});
      }
    }
    while (slots.size() % slotsOfUnit() != 0) {
      sources.push_back({0, 0, 0});
      slots.push_back({0, 0, bits});
    }
  }
  runBegin[kWidths] = uint32_t(slots.size() / slotsOfUnit());
}

namespace {

// 16 rows × 128 codes into a unit's words.
template <int kBits>
void packUnit(const uint8_t (&codes)[kUnitRows][kUnitColumns], uint8_t* out) {
  std::array<uint32_t, 64 * kBits> words{};
  for (int lane = 0; lane < 32; ++lane)
    for (int tile = 0; tile < kTilesOfUnit; ++tile)
      for (int reg = 0; reg < 4; ++reg) {
        const uint8_t* two = &codes[lane / 4 + reg % 2 * 8][tile * 16 + reg / 2 * 8 + lane % 4 * 2];
        const Field field = fieldOf(kBits, tile, reg);
        uint32_t& word = words[size_t(wordPlace(kBits, lane, field.word))];
        const auto spread = [&](uint32_t first, uint32_t second, int lowest, int rotation) {
          return std::rotl(first << lowest | second << (lowest + 16), rotation);
        };
        if (kBits == 3) {
          const Field low = lowFieldOf(tile, reg);
          word |= spread(two[0] >> 1, two[1] >> 1, field.lowest + 1, field.rotation);
          words[size_t(wordPlace(kBits, lane, low.word))] |=
              spread(two[0] & 1, two[1] & 1, low.lowest, low.rotation);
        } else {
          word |= spread(two[0], two[1], field.lowest, field.rotation);
        }
      }
  std::memcpy(out, words.data(), sizeof words);
}

void packUnit(int bits, const uint8_t (&codes)[kUnitRows][kUnitColumns], uint8_t* out) {
  switch (bits) {
    case 1:
      return packUnit<1>(codes, out);
    case 2:
      return packUnit<2>(codes, out);
    case 3:
      return packUnit<3>(codes, out);
    case 4:
      return packUnit<4>(codes, out);
    default:
      return packUnit<8>(codes, out);
  }
}

uint16_t halfOfInteger(uint32_t value) {  // exact up to 2048
  if (value == 0) return 0;
  const auto exponent = uint32_t(std::bit_width(value)) - 1;
  return uint16_t((exponent + 15) << 10 | ((value << (10 - exponent)) & 0x3ff));
}

}  // namespace

void packTile(const PackedMatrix& source, const UnitPlan& plan, size_t tile, uint8_t* codes,
              uint16_t* metadata) {
  const size_t slotsOfUnit = plan.slotsOfUnit();
  const size_t rows = std::min<size_t>(kUnitRows, source.rows() - tile * kUnitRows);
  for (size_t first = 0; first < plan.slots.size(); first += slotsOfUnit) {
    uint8_t unit[kUnitRows][kUnitColumns] = {};
    for (size_t i = 0; i < slotsOfUnit; ++i) {
      const UnitPlan::Source& from = plan.sources[first + i];
      if (from.width == 0) continue;
      const bool one = plan.slots[first + i].bits == 1;
      for (size_t r = 0; r < rows; ++r) {
        const size_t row = tile * kUnitRows + r;
        source.readCodes(from.group, row, from.start, from.width, unit[r] + i * plan.slotColumns);
        const PackedMatrix::RowOfGroup with = source.rowOfGroup(from.group, row);
        uint16_t* place = metadata + (first * kUnitRows + (r % 8 * slotsOfUnit + i) * 2 + r / 8) * 2;
        place[0] = with.scale;
        place[1] = one ? with.mean : halfOfInteger(with.zero);
      }
    }
    const int bits = plan.slots[first].bits;
    packUnit(bits, unit, codes);
    codes += bits * kUnitBytesABit;
  }
}

}  // namespace slim::cuda
