#include "cuda/kernels_file.h"

#include <dlfcn.h>

#include <cstdlib>
#include <cstring>
#include <filesystem>

#include "cuda/kernels/arguments.h"

namespace slim::cuda {
namespace {

/// The last bytes of the file.
struct Trailer {
  char magic[8];
  uint32_t version;
  uint32_t reserved;
  uint64_t bytes;  // before the trailer
  uint64_t hash;   // FNV-1a of them
};

uint64_t fnv1a(const uint8_t* bytes, size_t count) {
  uint64_t hash = 0xcbf29ce484222325;
  for (size_t i = 0; i < count; ++i) hash = (hash ^ bytes[i]) * 0x100000001b3;
  return hash;
}

Status unfit(const std::string& message) {
  Status status = Status::error("SLIM_DEVICE_UNAVAILABLE", message);
  status.parameter = "device";
  status.remedy =
      "Run `node scripts/build-cuda.mjs` in the package's folder (needs nvcc), or choose device 'cpu'";
  return status;
}

}  // namespace

std::string kernelsPath() {
  const char* named = std::getenv("SLIMLLM_CUDA_KERNELS");
  if (named && *named) return named;
  Dl_info info;
  dladdr(reinterpret_cast<const void*>(&fnv1a), &info);
  // <package>/build/Release/slim.node or <package>/prebuilds/<platform>/slim.node
  const std::filesystem::path folder = std::filesystem::path(info.dli_fname).parent_path();
  const std::filesystem::path prebuilt = folder.parent_path().parent_path() / "prebuilds" / "kernels.fatbin";
  const std::filesystem::path beside = folder / "kernels.fatbin";
  std::error_code missing;
  return std::filesystem::exists(beside, missing) || !std::filesystem::exists(prebuilt, missing) ? beside
                                                                                                 : prebuilt;
}

Status openKernelsFile(std::shared_ptr<MappedFile>& out) {
  const std::string path = kernelsPath();
  std::shared_ptr<MappedFile> file;
  if (Status status = MappedFile::open(path, file); !status.ok())
    return unfit("The CUDA kernels " + path + " cannot be read: " + status.message);
  Trailer trailer{};
  if (file->size() > sizeof trailer)
    std::memcpy(&trailer, file->data() + file->size() - sizeof trailer, sizeof trailer);
  if (std::memcmp(trailer.magic, "SLIMCUDA", 8) != 0 || trailer.bytes != file->size() - sizeof trailer)
    return unfit("The CUDA kernels " + path + " are no whole kernels.fatbin");
  if (trailer.version != kKernelsVersion)
    return unfit("The CUDA kernels " + path + " are of version " + std::to_string(trailer.version) +
                 ", this addon needs version " + std::to_string(kKernelsVersion));
  if (trailer.hash != fnv1a(file->data(), trailer.bytes))
    return unfit("The CUDA kernels " + path + " are damaged: their hash does not match");
  out = std::move(file);
  return Status::success();
}

}  // namespace slim::cuda
