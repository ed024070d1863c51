extern "C" __global__ void sound(const float* x, float* y) { y[threadIdx.x] = x[threadIdx.x]; }
// Half of the words that it reads are written.
extern "C" __global__ void defect(const float* x, float* y) {
  y[threadIdx.x] = x[threadIdx.x + blockDim.x / 2];
}
