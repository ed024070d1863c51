extern "C" __global__ void defectShuffle(float* y) {
  float v = threadIdx.x;
  if (threadIdx.x < 16) v += __shfl_xor_sync(0xffffffff, v, 1);
  y[threadIdx.x] = v;
}
extern "C" __global__ void soundShuffle(float* y) {
  float v = threadIdx.x;
  if (threadIdx.x < 16) v += __shfl_xor_sync(0x0000ffff, v, 1);
  y[threadIdx.x] = v;
}
// Takes part, but reads from a lane that does not.
extern "C" __global__ void defectSource(float* y) {
  float v = threadIdx.x;
  if (threadIdx.x < 16) v += __shfl_xor_sync(0x0000ffff, v, 16);
  y[threadIdx.x] = v;
}
extern "C" __global__ void defectVote(float* y) {
  if (threadIdx.x < 16) y[threadIdx.x] = __ballot_sync(0xffffffff, threadIdx.x > 3);
  __syncwarp();
  y[threadIdx.x + 32] = 1;
}
// Threads that have exited need not take part.
extern "C" __global__ void soundExited(float* y) {
  if (threadIdx.x >= 16) return;
  y[threadIdx.x] = __ballot_sync(0xffffffff, threadIdx.x > 3);
}
extern "C" __global__ void defectUnnamed(float* y) {
  y[threadIdx.x] = __ballot_sync(0x0000ffff, threadIdx.x > 3);
}
extern "C" __global__ void soundVote(float* y) {
  y[threadIdx.x] = __ballot_sync(0xffffffff, threadIdx.x > 3);
}
// The same of threads that returned within a branch: those of both its ways vote together.
extern "C" __global__ void soundReturn(float* y) {
  float v = 2;
  if (threadIdx.x & 1) {
    y[threadIdx.x] = v = 1;
    if (threadIdx.x % 5 == gridDim.x) return;
  }
  y[threadIdx.x] = v + __ballot_sync(0xffffffff, v > 1);
}
