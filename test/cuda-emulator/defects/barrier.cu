// 64 threads.
extern "C" __global__ void defectLanes(float* y) {
  if (threadIdx.x & 1) {
    __syncthreads();
    y[threadIdx.x] = 1;
  } else {
    y[threadIdx.x] = 2;
    __syncthreads();
  }
}
extern "C" __global__ void defectStuck(float* y) {
  if (threadIdx.x >= 32) asm volatile("bar.sync 1, 64;");
  y[threadIdx.x] = 1;
}
extern "C" __global__ void sound(float* y) {
  __syncthreads();
  y[threadIdx.x] = 1;
}
// Threads that have exited are not waited for.
extern "C" __global__ void soundExit(float* y) {
  if (threadIdx.x >= 40) return;
  __syncthreads();
  y[threadIdx.x] = 1;
}
extern "C" __global__ void defectCount(float* y) {
  asm volatile("bar.sync 1, 48;");
  y[threadIdx.x] = 1;
}
// One launched CTA: barriers 16, which there is none of, and 15.
extern "C" __global__ void defectNumber(float* y) {
  asm volatile("bar.sync %0;" ::"r"(gridDim.x + 15));
  y[threadIdx.x] = 1;
}
extern "C" __global__ void soundNumber(float* y) {
  asm volatile("bar.sync %0;" ::"r"(gridDim.x + 14));
  y[threadIdx.x] = 1;
}
// Some threads return within a branch; the others of both ways reach one barrier.
extern "C" __global__ void soundReturn(float* y, int n) {
  if (threadIdx.x & 1) {
    y[threadIdx.x] = 1;
    if (threadIdx.x % 5 == n) return;
  } else {
    y[threadIdx.x] = 2;
  }
  __syncthreads();
  y[threadIdx.x] += 1;
}
