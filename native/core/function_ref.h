// A function that is called before its maker returns: two words, where std::function may allocate.
#pragma once
#include <memory>
#include <type_traits>
#include <utility>

namespace slim {

template <typename Signature>
class FunctionRef;

template <typename Result, typename... Arguments>
class FunctionRef<Result(Arguments...)> {
 public:
  FunctionRef() = default;
  template <typename Function>
    requires(!std::is_same_v<std::remove_cvref_t<Function>, FunctionRef>)
  FunctionRef(Function&& function)  // NOLINT: a lambda becomes one where it is passed
      : object_(const_cast<void*>(static_cast<const void*>(std::addressof(function)))),
        call_([](void* object, Arguments... arguments) -> Result {
          return (*static_cast<std::remove_reference_t<Function>*>(object))(
              std::forward<Arguments>(arguments)...);
        }) {}

  /// A member function of an object.
  template <auto member, typename Object>
  static FunctionRef of(Object& object) {
    FunctionRef function;
    function.object_ = &object;
    function.call_ = [](void* on, Arguments... arguments) -> Result {
      return (static_cast<Object*>(on)->*member)(std::forward<Arguments>(arguments)...);
    };
    return function;
  }

  Result operator()(Arguments... arguments) const {
    return call_(object_, std::forward<Arguments>(arguments)...);
  }
  explicit operator bool() const { return call_ != nullptr; }

 private:
  void* object_ = nullptr;
  Result (*call_)(void*, Arguments...) = nullptr;
};

}  // namespace slim
