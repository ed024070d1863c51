extern "C" __global__ void defect(float* y) {
  __shared__ float s[64];
  s[threadIdx.x] = threadIdx.x;
  __syncthreads();
  y[threadIdx.x] = s[threadIdx.x + 1];
}
extern "C" __global__ void sound(float* y) {
  __shared__ float s[64];
  s[threadIdx.x] = threadIdx.x;
  if (threadIdx.x == 0) s[blockDim.x] = 0;
  __syncthreads();
  y[threadIdx.x] = s[threadIdx.x + 1];
}
