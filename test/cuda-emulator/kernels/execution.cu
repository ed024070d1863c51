// Kernels whose results are easily known, one for each thing that a warp, a CTA or a module does.
#include <cuda_fp16.h>

__constant__ float weights[4] = {1, 2, 4, 8};
__device__ int counters[2] = {7, 9};
__device__ const int* const second = counters + 1;

// Loops of a different length in each lane, with a break and an early return.
extern "C" __global__ void divergence(int* y, int n) {
  int i = threadIdx.x, sum = 0;
  if (i == 13) {
    y[i] = -1;
    return;
  }
  for (int k = 0; k < i; k++) {
    if (k == 20) break;
    if (k & 1)
      sum += k;
    else if (k % 3 == 0)
      sum -= 1;
    else
      sum += 100;
  }
  switch (i % 7 + n) {
    case 0:
      sum += 1;
      break;
    case 1:
      sum *= 3;
      break;
    case 2:
      sum -= 5;
      break;
    case 3:
      sum ^= 77;
      break;
    case 4:
      sum = -sum;
      break;
    case 5:
      sum += 1000;
      break;
    default:
      sum = 5;
      break;
  }
  y[i] = sum;
}

struct Pair {
  int a;
  float b;
};
__device__ __noinline__ Pair twice(Pair p, int depth) {
  if (depth & 1) return {p.a * 2, p.b};
  return {p.a, p.b * 2};
}
__device__ __noinline__ float mixed(Pair p, int i) {
  Pair q = twice(p, i);
  return q.a + q.b;
}
extern "C" __global__ void calls(float* y, Pair p) {
  y[threadIdx.x] = mixed({p.a + (int)threadIdx.x, p.b}, threadIdx.x);
}

extern "C" __global__ void variables(float* y) {
  int i = threadIdx.x;
  y[i] = weights[i & 3] + *second + counters[0];
  __syncthreads();
  if (i == 0) counters[0]++;
}

extern "C" __global__ void local(int* y, int n) {
  int table[8];
  for (int i = 0; i < 8; i++) table[(i * n) & 7] = i * threadIdx.x;
  y[threadIdx.x] = table[(threadIdx.x + n) & 7];
}

// Sums of warps by shuffles, then of the CTA through shared memory.
extern "C" __global__ void reduction(const float* x, float* y) {
  __shared__ float partial[8];
  float v = x[blockIdx.x * blockDim.x + threadIdx.x];
  for (int o = 16; o > 0; o >>= 1) v += __shfl_xor_sync(0xffffffff, v, o);
  if ((threadIdx.x & 31) == 0) partial[threadIdx.x >> 5] = v;
  __syncthreads();
  if (threadIdx.x == 0) {
    for (int w = 1; w < blockDim.x >> 5; w++) v += partial[w];
    y[blockIdx.x] = v;
  }
}

extern "C" __global__ void shuffles(int* y) {
  int i = threadIdx.x, *row = y + 8 * i;
  row[0] = __shfl_sync(0xffffffff, i, 5);
  row[1] = __shfl_up_sync(0xffffffff, i, 3);
  row[2] = __shfl_down_sync(0xffffffff, i, 3, 8);
  row[3] = __shfl_xor_sync(0xffffffff, i, 6, 16);
  row[4] = __ballot_sync(0xffffffff, i % 3 == 0);
  row[5] = __any_sync(0xffffffff, i == 31) * 2 + __all_sync(0xffffffff, i < 31);
  row[6] = __match_any_sync(0xffffffff, i / 8);
  row[7] = __reduce_add_sync(0xffffffff, i);
}

extern "C" __global__ void atomics(int* y, float* f, __half2* h, unsigned long long* wide) {
  __shared__ int bins[4];
  if (threadIdx.x < 4) bins[threadIdx.x] = 0;
  __syncthreads();
  atomicAdd(bins + (threadIdx.x & 3), 1);
  atomicMax(y + 4, (int)threadIdx.x);
  atomicMin(y + 5, -(int)threadIdx.x);
  atomicCAS(y + 6, 0, 42);
  atomicExch(y + 7, 5);
  atomicAdd(f, 0.5f);
  atomicAdd(h, __floats2half2_rn(1, 2));
  atomicAdd(wide, 1ull << 33);
  __syncthreads();
  if (threadIdx.x < 4) atomicAdd(y + threadIdx.x, bins[threadIdx.x]);
}

// Generic pointers to shared and global memory in one access.
__device__ __noinline__ float readThrough(const float* p) { return *p; }
extern "C" __global__ void generic(const float* x, float* y) {
  __shared__ float s[32];
  s[threadIdx.x] = 100 + threadIdx.x;
  __syncwarp();
  y[threadIdx.x] = readThrough(threadIdx.x & 1 ? s + threadIdx.x : x + threadIdx.x);
}

// One tile of every shape: c += a b, with a and b as bytes of the operands' types, row-major, b by columns.
template <int K, class T>
__device__ void fragments(const T* a, const T* b, unsigned* fa, unsigned* fb) {
  constexpr int n = 4 / sizeof(T);
  int group = threadIdx.x >> 2, t = threadIdx.x & 3;
  for (int r = 0; r < K / n / 2; r++) {
    fa[r] = *reinterpret_cast<const unsigned*>(a + (group + 8 * (r & 1)) * K + t * n + (r >> 1) * 4 * n);
  }
  for (int r = 0; r < K / n / 4; r++)
    fb[r] = *reinterpret_cast<const unsigned*>(b + group * K + t * n + r * 4 * n);
}
template <class T>
__device__ void store(T* c, const T* fc) {
  int group = threadIdx.x >> 2, t = threadIdx.x & 3;
  for (int i = 0; i < 4; i++) c[(group + 8 * (i >> 1)) * 8 + 2 * t + (i & 1)] = fc[i];
}
extern "C" __global__ void mmaHalf16(const __half* a, const __half* b, float* c) {
  unsigned fa[4], fb[2];
  float d[4] = {1, 1, 1, 1};
  fragments<16>(a, b, fa, fb);
  asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(fa[0]), "r"(fa[1]), "r"(fa[2]), "r"(fa[3]), "r"(fb[0]), "r"(fb[1]));
  store(c, d);
}
extern "C" __global__ void mmaBrain16(const unsigned short* a, const unsigned short* b, float* c) {
  unsigned fa[4], fb[2];
  float d[4] = {1, 1, 1, 1};
  fragments<16>(a, b, fa, fb);
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(fa[0]), "r"(fa[1]), "r"(fa[2]), "r"(fa[3]), "r"(fb[0]), "r"(fb[1]));
  store(c, d);
}
extern "C" __global__ void mmaHalf8(const __half* a, const __half* b, float* c) {
  unsigned fa[2], fb[1];
  float d[4] = {1, 1, 1, 1};
  fragments<8>(a, b, fa, fb);
  asm("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0,%1,%2,%3},{%4,%5},{%6},{%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(fa[0]), "r"(fa[1]), "r"(fb[0]));
  store(c, d);
}
extern "C" __global__ void mmaTf32(const float* a, const float* b, float* c) {
  unsigned fa[4], fb[2];
  float d[4] = {1, 1, 1, 1};
  fragments<8>(a, b, fa, fb);
  asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(fa[0]), "r"(fa[1]), "r"(fa[2]), "r"(fa[3]), "r"(fb[0]), "r"(fb[1]));
  store(c, d);
}
extern "C" __global__ void mmaInt32(const signed char* a, const signed char* b, int* c) {
  unsigned fa[4], fb[2];
  int d[4] = {1, 1, 1, 1};
  fragments<32>(a, b, fa, fb);
  asm("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%0,%1,%2,%3};"
      : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
      : "r"(fa[0]), "r"(fa[1]), "r"(fa[2]), "r"(fa[3]), "r"(fb[0]), "r"(fb[1]));
  store(c, d);
}
extern "C" __global__ void mmaInt16(const signed char* a, const signed char* b, int* c) {
  unsigned fa[2], fb[1];
  int d[4] = {1, 1, 1, 1};
  fragments<16>(a, b, fa, fb);
  asm("mma.sync.aligned.m16n8k16.row.col.s32.s8.s8.s32 {%0,%1,%2,%3},{%4,%5},{%6},{%0,%1,%2,%3};"
      : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
      : "r"(fa[0]), "r"(fa[1]), "r"(fb[0]));
  store(c, d);
}
// Accumulates in f16; the result is stored as it lies in the two registers.
extern "C" __global__ void mmaHalfHalf(const __half* a, const __half* b, float* c) {
  unsigned fa[4], fb[2], d[2] = {0x3c003c00, 0x3c003c00};
  fragments<16>(a, b, fa, fb);
  asm("mma.sync.aligned.m16n8k16.row.col.f16.f16.f16.f16 {%0,%1},{%2,%3,%4,%5},{%6,%7},{%0,%1};"
      : "+r"(d[0]), "+r"(d[1])
      : "r"(fa[0]), "r"(fa[1]), "r"(fa[2]), "r"(fa[3]), "r"(fb[0]), "r"(fb[1]));
  const __half* h = reinterpret_cast<const __half*>(d);
  float f[4] = {__half2float(h[0]), __half2float(h[1]), __half2float(h[2]), __half2float(h[3])};
  store(c, f);
}
// The same product with a through ldmatrix, and b, stored by rows, through ldmatrix.trans.
extern "C" __global__ void mmaLoaded(const uint4* a, const uint4* b, float* c) {
  __shared__ uint4 sa[32], sb[16];
  sa[threadIdx.x] = a[threadIdx.x];
  if (threadIdx.x < 16) sb[threadIdx.x] = b[threadIdx.x];
  __syncwarp();
  unsigned fa[4], fb[2];
  float d[4] = {1, 1, 1, 1};
  int lane = threadIdx.x;
  unsigned at = static_cast<unsigned>(__cvta_generic_to_shared(sa + (lane & 15) * 2 + (lane >> 4)));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3},[%4];"
               : "=r"(fa[0]), "=r"(fa[1]), "=r"(fa[2]), "=r"(fa[3])
               : "r"(at));
  at = static_cast<unsigned>(__cvta_generic_to_shared(sb + (lane & 15)));
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0,%1},[%2];"
               : "=r"(fb[0]), "=r"(fb[1])
               : "r"(at));
  asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(fa[0]), "r"(fa[1]), "r"(fa[2]), "r"(fa[3]), "r"(fb[0]), "r"(fb[1]));
  store(c, d);
}

// Copies by four stages of cp.async, each waited for when three more are under way.
extern "C" __global__ void pipeline(const float4* x, float* y, int tiles) {
  __shared__ float4 s[4][32];
  auto issue = [&](int tile) {
    if (tile < tiles) {
      asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(
                       static_cast<unsigned>(__cvta_generic_to_shared(s[tile & 3] + threadIdx.x))),
                   "l"(x + tile * 32 + threadIdx.x));
    }
    asm volatile("cp.async.commit_group;");
  };
  for (int tile = 0; tile < 3; tile++) issue(tile);
  float sum = 0;
  for (int tile = 0; tile < tiles; tile++) {
    asm volatile("cp.async.wait_group 2;" ::: "memory");
    __syncthreads();
    issue(tile + 3);
    float4 v = s[tile & 3][threadIdx.x ^ 1];
    sum += v.x + v.y + v.z + v.w;
  }
  y[threadIdx.x] = sum;
}

extern "C" __global__ void increment(int* y) { y[blockIdx.x * blockDim.x + threadIdx.x] += 1; }
extern "C" __global__ void math(const float* x, float* y) {
  int i = threadIdx.x;
  y[4 * i] = expf(x[i]);
  y[4 * i + 1] = sinf(x[i] * 1000);
  y[4 * i + 2] = tanhf(x[i]);
  y[4 * i + 3] = powf(fabsf(x[i]), 1.5f);
}
