__shared__ float table[1024];
extern __shared__ float dynamic[];
extern "C" __global__ void __launch_bounds__(128) bounded(float* y, int n) {
  if (threadIdx.x < n) y[threadIdx.x] = n;
}
extern "C" __global__ void unbounded(float* y, int n) {
  if (threadIdx.x < n) y[threadIdx.x] = n;
}
extern "C" __global__ void tiled(float* y) {
  table[threadIdx.x] = 1;
  dynamic[threadIdx.x] = 2;
  y[threadIdx.x] = table[threadIdx.x] + dynamic[threadIdx.x];
}
extern "C" __global__ void count(int* y) { y[0] = y[0] + 1; }
extern "C" __global__ void endless(int* y) {
  while (atomicAdd(y, 0) == 0) {
  }
}
