// A packed matrix in the device layout (unit_layout.h), made on the host.
#pragma once
#include <vector>

#include "cuda/kernels/arguments.h"
#include "quant/packed_matrix.h"

namespace slim::cuda {

/// Groups sorted by width, in slots: a slot is a group of up to 32, 64 or 128 columns, or 128 columns of a
/// larger one. A run of equal widths is filled up to whole units with empty slots.
struct UnitPlan {
  /// Which group, from which of its columns on; no columns: an empty slot.
  struct Source {
    size_t group, start, width;
  };

  explicit UnitPlan(const PackedMatrix& source);
  size_t slotsOfUnit() const { return kUnitColumns / slotColumns; }

  uint32_t slotColumns;
  std::vector<Source> sources;
  std::vector<Slot> slots;
  uint32_t runBegin[kWidths + 1] = {};
};

/// 16 rows: codes of all units, metadata of all slots (PackedProductArguments). Rows beyond the last are
/// zero, as `metadata` must be before.
void packTile(const PackedMatrix& source, const UnitPlan& plan, size_t tile, uint8_t* codes,
              uint16_t* metadata);

}  // namespace slim::cuda
