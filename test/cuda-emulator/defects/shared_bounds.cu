extern __shared__ float tile[];
// Launched with 32 floats of dynamic shared memory.
extern "C" __global__ void defect(float* y) {
  tile[threadIdx.x + 1] = threadIdx.x;
  __syncthreads();
  y[threadIdx.x] = tile[threadIdx.x + 1];
}
extern "C" __global__ void sound(float* y) {
  tile[threadIdx.x] = threadIdx.x;
  __syncthreads();
  y[threadIdx.x] = tile[threadIdx.x];
}
