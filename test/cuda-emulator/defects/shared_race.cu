// 64 threads: each warp reads what the other writes.
extern "C" __global__ void defect(float* y) {
  __shared__ float s[64];
  s[threadIdx.x] = 0;
  __syncthreads();
  s[threadIdx.x] = threadIdx.x;
  y[threadIdx.x] = s[threadIdx.x ^ 32];
}
extern "C" __global__ void sound(float* y) {
  __shared__ float s[64];
  s[threadIdx.x] = 0;
  __syncthreads();
  s[threadIdx.x] = threadIdx.x;
  __syncthreads();
  y[threadIdx.x] = s[threadIdx.x ^ 32];
}
// The second round's writes meet the first round's reads.
extern "C" __global__ void defectWriteAfterRead(float* y) {
  __shared__ float s[64];
  float sum = 0;
#pragma unroll 1
  for (int round = 0; round < 2; round++) {
    s[threadIdx.x] = threadIdx.x + round;
    __syncthreads();
    sum += s[threadIdx.x ^ 32];
  }
  y[threadIdx.x] = sum;
}
extern "C" __global__ void soundWriteAfterRead(float* y) {
  __shared__ float s[64];
  float sum = 0;
#pragma unroll 1
  for (int round = 0; round < 2; round++) {
    s[threadIdx.x] = threadIdx.x + round;
    __syncthreads();
    sum += s[threadIdx.x ^ 32];
    __syncthreads();
  }
  y[threadIdx.x] = sum;
}
// Neighbouring bytes of a word are no race; the same byte is.
extern "C" __global__ void soundBytes(float* y) {
  __shared__ unsigned char s[64];
  s[(threadIdx.x & 31) * 2 + (threadIdx.x >> 5)] = threadIdx.x;
  __syncthreads();
  y[threadIdx.x] = s[threadIdx.x];
}
extern "C" __global__ void defectBytes(float* y) {
  __shared__ unsigned char s[64];
  s[threadIdx.x & 31] = threadIdx.x;
  s[threadIdx.x & 31 | 32] = threadIdx.x;
  __syncthreads();
  y[threadIdx.x] = s[threadIdx.x];
}
extern "C" __global__ void soundAtomics(int* y) {
  __shared__ int count;
  if (threadIdx.x == 0) count = 0;
  __syncthreads();
  atomicAdd(&count, 1);
  __syncthreads();
  y[threadIdx.x] = count;
}
extern "C" __global__ void defectAtomics(int* y) {
  __shared__ int count;
  if (threadIdx.x == 0) count = 0;
  __syncthreads();
  atomicAdd(&count, 1);
  y[threadIdx.x] = count;
}
// A producer and a consumer, each at half a barrier.
extern "C" __global__ void soundNamed(float* y) {
  __shared__ float s[32];
  if (threadIdx.x < 32) {
    s[threadIdx.x] = threadIdx.x;
    asm volatile("bar.arrive 1, 64;" ::: "memory");
  } else {
    asm volatile("bar.sync 1, 64;" ::: "memory");
    y[threadIdx.x - 32] = s[threadIdx.x - 32];
  }
}
// Arriving first and writing then is too late.
extern "C" __global__ void defectNamed(float* y) {
  __shared__ float s[32];
  if (threadIdx.x < 32) {
    asm volatile("bar.arrive 1, 64;" ::: "memory");
    s[threadIdx.x] = threadIdx.x;
  } else {
    s[threadIdx.x - 32] = 0;
    asm volatile("bar.sync 1, 64;" ::: "memory");
    y[threadIdx.x - 32] = s[threadIdx.x - 32];
  }
}
