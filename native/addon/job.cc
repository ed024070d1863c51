#include "addon/job.h"

#include <memory>
#include <new>

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
    } catch (const std::bad_alloc&) {
      status_ = Status::error("SLIM_OUT_OF_MEMORY", "Out of memory");
    }
    work_ = nullptr;  // let go of the inputs here: unmapping them can take long
  }
  void OnOK() override {
    if (!status_.ok()) return deferred.Reject(toError(Env(), status_).Value());
    try {
      deferred.Resolve(finish_(Env()));
    } catch (const Napi::Error& e) {
      deferred.Reject(e.Value());
    }
  }

 private:
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

Napi::Error toError(Napi::Env env, const Status& status) {
  auto error = Napi::Error::New(env, status.message);
  auto object = error.Value();
  object.Set("code", status.code);
  const std::pair<const char*, const std::string*> fields[] = {{"parameter", &status.parameter},
                                                               {"expected", &status.expected},
                                                               {"received", &status.received},
                                                               {"remedy", &status.remedy}};
  for (const auto& [name, value] : fields)
    if (!value->empty()) object.Set(name, *value);
  return error;
}

void throwIfError(Napi::Env env, const Status& status) {
  if (!status.ok()) throw toError(env, status);
}

}  // namespace slim::addon
