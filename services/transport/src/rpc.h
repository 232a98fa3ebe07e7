// One call: what gRPC tells of it, and the one place that ends it.
//
// Ownership. gRPC holds an Rpc until OnDone, which it calls after the Rpc was finished, once.
// Python holds it through its handle for as long as it likes. Whoever comes first finishes: the
// answer, the caller's leaving, a full queue, or a handle that was dropped without an answer. So
// no call is finished twice and none is left open. No Python object is known here: gRPC's
// threads never wait for the interpreter.
#pragma once

#include <grpcpp/generic/async_generic_service.h>
#include <grpcpp/grpcpp.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "lane.h"

namespace tutelage {

using Clock = std::chrono::steady_clock;  // what Python's time.monotonic() reads
class Rpc;

// How a method's calls are handed over: kBatch with others, one message each; kUnary one by one
// as events; kStream likewise, message by message.
enum class Kind { kBatch, kUnary, kStream };

enum class What {
  kCall,     // a call came in, with its message if it is unary
  kMessage,  // the message that read() asked for
  kEnd,      // no more messages will come
  kWritten,  // the message of write() is on its way; the next may be written
  kDone,     // the call is over, and nothing follows
};

struct Event {
  What what;
  std::shared_ptr<Rpc> rpc;
  grpc::ByteBuffer content;
};

struct Method {
  std::size_t index;  // in the table that Python gave
  Kind kind;
};

// What the calls of one server share.
struct Lanes {
  Lanes(std::size_t most_calls, std::size_t most_bytes)
      : most_calls(most_calls), calls(most_calls, most_bytes), events(SIZE_MAX, SIZE_MAX) {}

  const std::size_t most_calls;
  // Handles one call in the thread that brought it; see Lane. Never two at a time, and none at
  // the time of a batch that was taken. May be empty.
  std::function<void(std::shared_ptr<Rpc>)> lead;
  Lane<std::shared_ptr<Rpc>> calls;
  // Bounded by the calls that are open: each has at most a read, a write and an end under way.
  Lane<Event> events;
  std::atomic<std::size_t> batched{0};  // calls of batches that are not over
  std::atomic<std::size_t> open{0};     // calls that tell events
  std::atomic<std::uint64_t> refused{0};  // for want of room
  std::atomic<std::uint64_t> dropped{0};  // left by their callers before Python took them
};

class Rpc final : public grpc::ServerGenericBidiReactor, public std::enable_shared_from_this<Rpc> {
 public:
  // The reactor that gRPC is to own from here on.
  static Rpc* start(std::shared_ptr<Lanes> lanes, const Method* method,
                    grpc::GenericCallbackServerContext* context);

  Rpc(std::shared_ptr<Lanes> lanes, const Method& method,
      grpc::GenericCallbackServerContext* context);

  std::size_t method() const { return method_.index; }
  Kind kind() const { return method_.kind; }
  std::uint64_t id() const { return reinterpret_cast<std::uint64_t>(this); }
  const grpc::ByteBuffer& request() const { return request_; }
  Clock::time_point arrived() const { return arrived_; }
  // Whether there is nobody to answer: cancelled, gone, too late, or answered already.
  bool over() const { return over_.load(std::memory_order_acquire); }

  // Nothing once the call is over.
  std::vector<std::pair<std::string, std::string>> metadata();
  std::string peer();
  Clock::time_point deadline();  // max() for none

  // Each does nothing once the call is over.
  void reply(grpc::ByteBuffer content);
  void finish(grpc::Status status);
  void read();
  void write(grpc::ByteBuffer content);

  void OnReadDone(bool ok) override;
  void OnWriteDone(bool ok) override;
  void OnCancel() override;
  void OnDone() override;
  // Not API, says gRPC, but for reactions as trivial as OnDone and OnCancel are here: they need
  // not be sent to another thread, whose waking costs as much as a small model.
  bool InternalInlineable() override { return true; }

 private:
  bool claim();
  void tell(What what, grpc::ByteBuffer content = {});
  bool admit();
  void lead();
  void refuse(const char* what);

  const std::shared_ptr<Lanes> lanes_;
  const Method method_;
  grpc::GenericCallbackServerContext* const context_;  // gRPC's; gone some time after the claim
  std::shared_ptr<Rpc> self_;                          // gRPC's hold on this
  std::mutex mutex_;  // so that no operation begins, and no context is read, after the claim
  std::atomic<bool> over_{false};
  bool counted_ = false;  // among the open
  grpc::ByteBuffer request_, incoming_, outgoing_;
  Clock::time_point arrived_ = Clock::now();
};

}  // namespace tutelage
