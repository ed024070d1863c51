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
