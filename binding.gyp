{
  'includes': ['native/sources.gypi'],
  'targets': [{
    'target_name': 'slim',
    'sources': ['<@(slim_sources)'],
    'include_dirs': ["<!(node -p \"require('node-addon-api').include_dir\")", 'native'],
    'defines': ['NAPI_VERSION=8', 'NAPI_CPP_EXCEPTIONS', 'NODE_ADDON_API_CPP_EXCEPTIONS_ALL',
                'NODE_API_SWALLOW_UNTHROWABLE_EXCEPTIONS'],
    'cflags!': ['-fno-exceptions'],
    'cflags_cc!': ['-fno-exceptions', '-fno-rtti', '-std=gnu++17'],
    'cflags_cc': ['-std=c++20', '-O3', '-fvisibility=hidden', '-Wall', '-Wextra', '-ffp-contract=off'],
    'xcode_settings': {'GCC_ENABLE_CPP_EXCEPTIONS': 'YES', 'CLANG_CXX_LANGUAGE_STANDARD': 'c++20'},
    'msvs_settings': {'VCCLCompilerTool': {'ExceptionHandling': 1, 'AdditionalOptions': ['/std:c++20']}},
  }],
}
