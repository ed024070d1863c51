#include "core/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

namespace slim {

Status MappedFile::open(const std::string& path, std::shared_ptr<MappedFile>& out) {
  const auto failure = [&](const char* what) {
    return Status::error(errno == ENOENT ? "SLIM_FILE_NOT_FOUND" : "SLIM_FILE_UNREADABLE",
                         std::string(what) + " " + path + ": " + std::strerror(errno));
  };
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return failure("Cannot open");
  struct stat info;
  if (fstat(fd, &info) != 0) {
    const Status status = failure("Cannot stat");
    close(fd);
    return status;
  }
  std::shared_ptr<MappedFile> file(new MappedFile());
  file->path_ = path;
  file->size_ = size_t(info.st_size);
  if (file->size_ > 0) {
    void* address = mmap(nullptr, file->size_, PROT_READ, MAP_SHARED, fd, 0);
    if (address == MAP_FAILED) {
      const Status status = failure("Cannot map");
      close(fd);
      return status;
    }
    file->data_ = static_cast<uint8_t*>(address);
  }
  close(fd);
  out = std::move(file);
  return Status::success();
}

MappedFile::~MappedFile() {
  if (data_) munmap(data_, size_);
}

}  // namespace slim
