extern "C" __global__ void defect(float* y) { y[threadIdx.x] = blockIdx.x; }
extern "C" __global__ void sound(float* y) { y[blockIdx.x * blockDim.x + threadIdx.x] = blockIdx.x; }
extern "C" __global__ void defectRead(float* y) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  float next = y[(i + blockDim.x) % (gridDim.x * blockDim.x)];
  y[i] = next + 1;
}
extern "C" __global__ void soundHalves(unsigned short* y) {
  y[threadIdx.x * gridDim.x + blockIdx.x] = blockIdx.x;
}
extern "C" __global__ void soundAtomics(int* y) { atomicAdd(y + threadIdx.x, 1); }
// The last CTA to finish adds up what the others wrote: a fence and a counter order the two.
__device__ void finish(float* y, int* counter, float* total, bool fenced) {
  __shared__ bool isLast;
  y[blockIdx.x * blockDim.x + threadIdx.x] = threadIdx.x;
  if (fenced) __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) isLast = atomicAdd(counter, 1) == gridDim.x - 1;
  __syncthreads();
  if (isLast && threadIdx.x == 0) {
    float sum = 0;
    for (int i = 0; i < gridDim.x * blockDim.x; i++) sum += y[i];
    *total = sum;
  }
}
extern "C" __global__ void soundLast(float* y, int* counter, float* total) {
  finish(y, counter, total, true);
}
extern "C" __global__ void defectLast(float* y, int* counter, float* total) {
  finish(y, counter, total, false);
}
// A flag in shared memory is each CTA's own and orders nothing between them.
extern "C" __global__ void defectFlag(float* y) {
  __shared__ volatile int flag;
  y[blockIdx.x * blockDim.x + threadIdx.x] = 1;
  __threadfence();
  flag = 1;
  if (flag == 1 && blockIdx.x > 0) y[blockIdx.x * blockDim.x + threadIdx.x] = y[threadIdx.x];
}
