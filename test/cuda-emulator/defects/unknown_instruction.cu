extern "C" __global__ void defect(float* y) {
  __shared__ unsigned long long barrier;
  asm volatile("mbarrier.init.shared.b64 [%0], 1;" ::"r"((unsigned)__cvta_generic_to_shared(&barrier)));
  y[0] = 1;
}
extern "C" __global__ void sound(float* y) { y[0] = 1; }
