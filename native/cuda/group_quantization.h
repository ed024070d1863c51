// Codes for a whole matrix on a device: quant/gptq.h and PackedMatrix::pack there.
#pragma once
#include <memory>
#include <vector>

#include "cuda/device.h"
#include "quant/packed_matrix.h"
#include "quant/quantizer.h"

namespace slim::cuda {

struct DeviceInverseFactor;  // cuda/inverse_factor.h

/// As slim::GroupCodes, on a device.
struct DeviceGroupCodes {
  size_t rows = 0, cols = 0, groupSize = 0;
  std::vector<uint8_t> groupBits;        // [groups], 1 … 8
  DeviceBuffer<uint8_t> codes;           // [rows, cols]
  DeviceBuffer<uint16_t> scales, means;  // [groups, rows] float16; means of 1-bit groups, 0 of others
  DeviceBuffer<uint8_t> zeros;           // [groups, rows]; 0 of 1-bit groups
};

struct DeviceGroupQuantization {
  Quantizer quantizer = Quantizer::MinMax;
  DeviceAddress h = 0;  // [cols] what an error of each column costs, for Wide; 0: all the same
  const DeviceInverseFactor* factor = nullptr;  // U: GPTQ; nullptr: no compensation
  DeviceAddress losses = 0;  // [rows] float64, or 0: Σ_j e_j² is added, as slim::GroupQuantization
};

/// SLIM_GROUP_SIZE where a device cannot quantize groups of this size.
Status checkDeviceGroupSize(const Groups& groups);

/// As slim::quantizeGroups: w [rows, cols] float32 ends as the compensated weights. The caller holds
/// device.use(); these queue work and do not wait for it, pack excepted.
Status quantizeGroups(Device& device, DeviceAddress w, size_t rows, const Groups& groups,
                      const std::vector<uint8_t>& groupBits, const DeviceGroupQuantization& options,
                      const CancelFlag& cancelled, DeviceGroupCodes& out);

/// w [rows, cols] float32 = the quantized weights.
Status dequantize(Device& device, const DeviceGroupCodes& codes, DeviceAddress w);

/// The canonical layout of docs/format.md, made on the device and downloaded once.
Status pack(Device& device, const DeviceGroupCodes& codes, std::shared_ptr<PackedMatrix>& out);

}  // namespace slim::cuda
