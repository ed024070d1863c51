// One warp, one access of each kind; s is written conflict-free before.
extern __shared__ __align__(16) float s[];
__device__ void prepare() {
  for (int i = threadIdx.x; i < 4096; i += 32) s[i] = i;
  __syncwarp();
}
extern "C" __global__ void onlyPrepare() { prepare(); }
extern "C" __global__ void sharedStride(float* y, int stride) {
  prepare();
  y[threadIdx.x] = s[threadIdx.x * stride];
}
extern "C" __global__ void sharedWide(float* y, int stride) {
  prepare();
  float4 v = *reinterpret_cast<float4*>(s + threadIdx.x * stride);
  y[threadIdx.x] = v.x + v.y + v.z + v.w;
}
extern "C" __global__ void sharedPairs(float* y, int stride) {
  prepare();
  float2 v = *reinterpret_cast<float2*>(s + threadIdx.x * stride);
  y[threadIdx.x] = v.x + v.y;
}
extern "C" __global__ void matrix(float* y, int rowBytes) {
  prepare();
  unsigned r[4];
  unsigned at = static_cast<unsigned>(__cvta_generic_to_shared(s)) + threadIdx.x * rowBytes;
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3},[%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(at));
  y[threadIdx.x] = r[0] + r[1] + r[2] + r[3];
}
extern "C" __global__ void globalStride(const float* x, float* y, int stride, int first) {
  y[threadIdx.x] = x[first + threadIdx.x * stride];
}
extern "C" __global__ void globalWide(const float4* x, float* y) {
  float4 v = x[threadIdx.x];
  y[threadIdx.x] = v.x + v.y + v.z + v.w;
}
