extern "C" __global__ void defect(int* y) {
  if (threadIdx.x == blockDim.x - 1) __trap();
  y[threadIdx.x] = 1;
}
extern "C" __global__ void sound(int* y) {
  if (threadIdx.x == blockDim.x) __trap();
  y[threadIdx.x] = 1;
}
