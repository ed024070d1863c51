// Launched with n = 7: the last element of the table, or one past it.
__device__ int element(int n, int at) {
  int table[8];
#pragma unroll 1
  for (int i = 0; i < 8; i++) table[(i * n) & 7] = i + threadIdx.x;
  return table[at];
}
extern "C" __global__ void defect(int* y, int n) { y[threadIdx.x] = element(n, n + 1); }
extern "C" __global__ void sound(int* y, int n) { y[threadIdx.x] = element(n, n); }
