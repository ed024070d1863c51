#include <cuda_pipeline.h>
// Reads what its own copy has not been waited for.
extern "C" __global__ void defect(const float4* x, float* y) {
  __shared__ float4 s[64];
  __pipeline_memcpy_async(s + threadIdx.x, x + threadIdx.x, 16);
  __pipeline_commit();
  y[threadIdx.x] = s[threadIdx.x].x;
  __pipeline_wait_prior(0);
}
extern "C" __global__ void sound(const float4* x, float* y) {
  __shared__ float4 s[64];
  __pipeline_memcpy_async(s + threadIdx.x, x + threadIdx.x, 16);
  __pipeline_commit();
  __pipeline_wait_prior(0);
  y[threadIdx.x] = s[threadIdx.x].x;
}
// Waits, but reads another warp's copy without a barrier.
extern "C" __global__ void defectBarrier(const float4* x, float* y) {
  __shared__ float4 s[64];
  __pipeline_memcpy_async(s + threadIdx.x, x + threadIdx.x, 16);
  __pipeline_commit();
  __pipeline_wait_prior(0);
  y[threadIdx.x] = s[threadIdx.x ^ 32].x;
}
extern "C" __global__ void soundBarrier(const float4* x, float* y) {
  __shared__ float4 s[64];
  __pipeline_memcpy_async(s + threadIdx.x, x + threadIdx.x, 16);
  __pipeline_commit();
  __pipeline_wait_prior(0);
  __syncthreads();
  y[threadIdx.x] = s[threadIdx.x ^ 32].x;
}
// Two groups in flight; waiting for all but the latest completes the first only.
extern "C" __global__ void soundStages(const float4* x, float* y) {
  __shared__ float4 s[2][64];
  for (int i = 0; i < 2; i++) {
    __pipeline_memcpy_async(s[i] + threadIdx.x, x + threadIdx.x, 16, i == 1 ? 8 : 0);
    __pipeline_commit();
  }
  __pipeline_wait_prior(1);
  float first = s[0][threadIdx.x].w;
  __pipeline_wait_prior(0);
  y[threadIdx.x] = first + s[1][threadIdx.x].y + s[1][threadIdx.x].w;
}
extern "C" __global__ void defectStages(const float4* x, float* y) {
  __shared__ float4 s[2][64];
  for (int i = 0; i < 2; i++) {
    __pipeline_memcpy_async(s[i] + threadIdx.x, x + threadIdx.x, 16);
    __pipeline_commit();
  }
  __pipeline_wait_prior(1);
  y[threadIdx.x] = s[1][threadIdx.x].y;
  __pipeline_wait_prior(0);
}
