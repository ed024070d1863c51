{
  "variables": {
    "slim_sources": [
      "native/addon/addon.cc",
      "native/addon/arguments.cc",
      "native/addon/job.cc",
      "native/addon/tensor_object.cc",
      "native/addon/hessian_object.cc",
      "native/addon/packed_object.cc",
      "native/addon/quant_functions.cc",
      "native/addon/decoder_object.cc",
      "native/addon/gemm_functions.cc",
      "native/core/mapped_file.cc",
      "native/core/tensor.cc",
      "native/core/thread_pool.cc",
      "native/cpu/conversions.cc",
      "native/cpu/features.cc",
      "native/cpu/gemm.cc",
      "native/cpu/gemm_avx2.cc",
      "native/cpu/gemm_avx512.cc",
      "native/cpu/gemm_portable.cc",
      "native/cpu/gemm_reference.cc"
    ]
  }
}
