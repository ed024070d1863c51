extern "C" __global__ void defect(const float* x, float* y) {
  float4 v = *reinterpret_cast<const float4*>(x + 4 * threadIdx.x + 1);
  y[threadIdx.x] = v.x + v.y + v.z + v.w;
}
extern "C" __global__ void sound(const float* x, float* y) {
  float4 v = *reinterpret_cast<const float4*>(x + 4 * threadIdx.x);
  y[threadIdx.x] = v.x + v.y + v.z + v.w;
}
extern "C" __global__ void defectShared(float* y) {
  __shared__ __align__(16) float s[68];
  s[threadIdx.x] = s[threadIdx.x + 32] = threadIdx.x;
  __syncwarp();
  float2 v = *reinterpret_cast<float2*>(s + threadIdx.x);
  y[threadIdx.x] = v.x + v.y;
}
