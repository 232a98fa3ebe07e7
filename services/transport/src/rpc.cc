#include "rpc.h"

namespace tutelage {

Rpc* Rpc::start(std::shared_ptr<Lanes> lanes, const Method* method,
                grpc::GenericCallbackServerContext* context) {
  static const Method unknown{SIZE_MAX, Kind::kBatch};
  auto rpc = std::make_shared<Rpc>(std::move(lanes), method ? *method : unknown, context);
  rpc->self_ = rpc;
  if (!method) {
    rpc->finish({grpc::StatusCode::UNIMPLEMENTED, "no such method"});
  } else if (method->kind != Kind::kBatch && !rpc->admit()) {
    rpc->refuse("open");
  } else if (method->kind == Kind::kStream) {
    rpc->tell(What::kCall);
  } else {
    rpc->StartRead(&rpc->request_);
  }
  return rpc.get();
}

Rpc::Rpc(std::shared_ptr<Lanes> lanes, const Method& method,
         grpc::GenericCallbackServerContext* context)
    : lanes_(std::move(lanes)), method_(method), context_(context) {
  if (method_.kind == Kind::kBatch) ++lanes_->batched;
}

bool Rpc::admit() {
  counted_ = true;
  return lanes_->open.fetch_add(1) < lanes_->most_calls;
}

void Rpc::refuse(const char* what) {
  ++lanes_->refused;
  finish({grpc::StatusCode::RESOURCE_EXHAUSTED,
          std::string("too many calls are ") + what + ", the limit is " +
              std::to_string(lanes_->most_calls) + "; try again in a moment"});
}

bool Rpc::claim() {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    if (over_.exchange(true)) return false;
  }
  if (method_.kind == Kind::kBatch) --lanes_->batched;
  return true;
}

void Rpc::tell(What what, grpc::ByteBuffer content) {
  lanes_->events.push({what, shared_from_this(), std::move(content)}, 0, false);
}

std::vector<std::pair<std::string, std::string>> Rpc::metadata() {
  std::vector<std::pair<std::string, std::string>> copied;
  std::lock_guard<std::mutex> lock(mutex_);
  if (over()) return copied;
  for (const auto& [key, value] : context_->client_metadata()) {
    copied.emplace_back(std::string(key.data(), key.size()), std::string(value.data(), value.size()));
  }
  return copied;
}

std::string Rpc::peer() {
  std::lock_guard<std::mutex> lock(mutex_);
  return over() ? std::string() : context_->peer();
}

Clock::time_point Rpc::deadline() {
  using std::chrono::system_clock;
  std::lock_guard<std::mutex> lock(mutex_);
  if (over()) return Clock::now();
  const auto wall = context_->deadline();
  if (wall == system_clock::time_point::max()) return Clock::time_point::max();
  return Clock::now() + std::chrono::duration_cast<Clock::duration>(wall - system_clock::now());
}

void Rpc::reply(grpc::ByteBuffer content) {
  if (!claim()) return;
  outgoing_ = std::move(content);
  StartWriteAndFinish(&outgoing_, grpc::WriteOptions(), grpc::Status::OK);
}

void Rpc::finish(grpc::Status status) {
  if (claim()) Finish(std::move(status));
}

void Rpc::read() {
  std::lock_guard<std::mutex> lock(mutex_);
  if (!over()) StartRead(&incoming_);
}

void Rpc::write(grpc::ByteBuffer content) {
  std::lock_guard<std::mutex> lock(mutex_);
  if (over()) return;
  outgoing_ = std::move(content);
  StartWrite(&outgoing_);
}

void Rpc::OnReadDone(bool ok) {
  if (method_.kind == Kind::kStream) {
    tell(ok ? What::kMessage : What::kEnd, std::move(incoming_));
  } else if (!ok) {  // of a message that is too large, gRPC has told the caller already
    finish({grpc::StatusCode::INVALID_ARGUMENT, "the call came without a message"});
  } else {
    arrived_ = Clock::now();
    if (method_.kind == Kind::kUnary) return tell(What::kCall);
    // Where others are under way, it is better to wait for them and be handled together.
    const bool may_lead = lanes_->lead && lanes_->batched == 1;
    const auto pushed = lanes_->calls.push(shared_from_this(), request_.Length(), may_lead);
    if (pushed == Lane<std::shared_ptr<Rpc>>::Pushed::kRefused) return refuse("waiting");
    if (pushed == Lane<std::shared_ptr<Rpc>>::Pushed::kLeads) lead();
  }
}

void Rpc::lead() {
  // gRPC looks after the calls' ends when this thread comes back to it: not too late.
  constexpr int most = 16;
  std::optional<std::shared_ptr<Rpc>> next = shared_from_this();
  for (int led = 1; next; ++led) {
    lanes_->lead(std::move(*next));
    next = lanes_->calls.rest(led < most);
  }
}

void Rpc::OnWriteDone(bool) {
  // Of a write that failed the call's end tells more; a reply's write is its end.
  if (!over()) tell(What::kWritten);
}

void Rpc::OnCancel() { finish(grpc::Status::CANCELLED); }

void Rpc::OnDone() {
  if (counted_) --lanes_->open;
  if (method_.kind != Kind::kBatch) tell(What::kDone);
  const auto last = std::move(self_);  // nothing here may be touched after gRPC has let go
}

}  // namespace tutelage
