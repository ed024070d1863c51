#include "addon/job.h"

#include <memory>
#include <new>
#include <stdexcept>

#include "addon/native_object.h"
#include "addon/tensor_object.h"

namespace slim::addon {
namespace {

class Worker : public Napi::AsyncWorker {
 public:
  Worker(Napi::Env env, Work work, Finish finish, std::shared_ptr<CancelFlag> cancelled)
      : AsyncWorker(env),
        deferred(Napi::Promise::Deferred::New(env)),
        work_(std::move(work)),
        finish_(std::move(finish)),
        cancelled_(std::move(cancelled)) {}

  const Napi::Promise::Deferred deferred;

 protected:
  void Execute() override {
    try {
      status_ = cancelled_->load() ? Status::aborted() : work_(*cancelled_);
    } catch (const std::exception& error) {
      status_ = toStatus(error);
    }
    work_ = nullptr;  // let go of the inputs here: unmapping them can take long
  }
  // When a worker thread is terminated, every call into it fails, and there is nobody left to tell.
  void OnOK() override {
    try {
      settle();
    } catch (const Napi::Error&) {
    }
  }

 private:
  void settle() {
    if (!status_.ok()) return deferred.Reject(toError(Env(), status_).Value());
    try {
      deferred.Resolve(guarded(Env(), [this] { return finish_(Env()); }));
    } catch (const Napi::Error& error) {
      deferred.Reject(error.Value());
    }
  }

  Work work_;
  Finish finish_;
  std::shared_ptr<CancelFlag> cancelled_;
  Status status_;
};

}  // namespace

Napi::Value startJob(Napi::Env env, Work work, Finish finish) {
  auto cancelled = std::make_shared<CancelFlag>(false);
  auto* worker = new Worker(env, std::move(work), std::move(finish), cancelled);
  auto job = Napi::Object::New(env);
  job.Set("promise", worker->deferred.Promise());
  job.Set("cancel",
          Napi::Function::New(env, [cancelled](const Napi::CallbackInfo&) { cancelled->store(true); }));
  worker->Queue();
  return job;
}

Status toStatus(const std::exception& error) {
  if (dynamic_cast<const std::bad_alloc*>(&error) || dynamic_cast<const std::length_error*>(&error))
    return Status::error("SLIM_OUT_OF_MEMORY", "Out of memory");
  return Status::error("SLIM_INTERNAL", std::string("Unexpected failure in native code: ") + error.what());
}

Napi::Error toError(Napi::Env env, const Status& status) {
  auto details = Napi::Object::New(env);
  const std::pair<const char*, const std::string*> fields[] = {{"parameter", &status.parameter},
                                                               {"expected", &status.expected},
                                                               {"received", &status.received},
                                                               {"remedy", &status.remedy}};
  for (const auto& [name, value] : fields)
    if (!value->empty()) details.Set(name, *value);
  const auto& makeError = env.GetInstanceData<AddonData>()->makeError;
  if (!makeError.IsEmpty())
    return {env, makeError.Call(
                     {Napi::String::New(env, status.code), Napi::String::New(env, status.message), details})};
  auto error = Napi::Error::New(env, status.message);
  error.Value().Set("code", status.code);
  return error;
}

void throwIfError(Napi::Env env, const Status& status) {
  if (!status.ok()) throw toError(env, status);
}

}  // namespace slim::addon
