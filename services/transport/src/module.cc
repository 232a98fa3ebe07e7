// What Python sees. Every wait and every operation of gRPC happens without the GIL.
#include <grpc/support/log.h>
#include <nanobind/nanobind.h>
#include <nanobind/stl/map.h>
#include <nanobind/stl/string.h>

#include <cstdlib>

#include "server.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace tutelage {
namespace {

// Python's functions that a server calls. Its calls share them; it empties them when it stops,
// for they lead back to handlers, and those may keep calls, in a circle.
struct Functions {
  nb::object answer;  // takes a call and its reply, which came late
  nb::object handle;  // takes calls in a list
};

// The GIL, for a thread of gRPC's. What Python keeps of the thread is made once and kept as long
// as the thread lives: to make it for every call would cost as much as to parse one.
class Guest {
 public:
  Guest() {
    static thread_local Stay stay;
    if (stay.state) {
      PyEval_RestoreThread(stay.state);
    } else {
      stay.hold = PyGILState_Ensure();
      stay.state = PyThreadState_Get();
    }
  }
  ~Guest() { PyEval_SaveThread(); }

 private:
  struct Stay {
    PyThreadState* state = nullptr;
    PyGILState_STATE hold = PyGILState_UNLOCKED;
    ~Stay() {
      if (!state) return;
      PyEval_RestoreThread(state);
      PyGILState_Release(hold);
    }
  };
};

// Python's hold on a call. Dropped without an answer, it ends the call.
class Handle {
 public:
  Handle(std::shared_ptr<Rpc> rpc, nb::object method, std::shared_ptr<Functions> functions)
      : rpc(std::move(rpc)), method(std::move(method)), functions(std::move(functions)) {}
  Handle(Handle&&) = default;
  ~Handle() {
    if (rpc && !rpc->over()) rpc->finish({grpc::StatusCode::INTERNAL, "the call was not answered"});
  }

  std::shared_ptr<Rpc> rpc;
  nb::object method;  // its full name
  std::shared_ptr<Functions> functions;
};

nb::bytes to_python(const grpc::ByteBuffer& buffer) {
  grpc::Slice slice;
  // A copy of a slice only counts a reference; of several slices it joins them.
  if (!buffer.TrySingleSlice(&slice).ok() && !buffer.DumpToSingleSlice(&slice).ok()) return nb::bytes("", 0);
  return nb::bytes(slice.begin(), slice.size());
}

grpc::ByteBuffer from_python(nb::handle content) {
  const auto bytes = nb::cast<nb::bytes>(content);
  const grpc::Slice slice(bytes.c_str(), bytes.size());
  return {&slice, 1};
}

grpc::Status to_status(int code, const std::string& message, const nb::bytes& details) {
  return {static_cast<grpc::StatusCode>(code), message, {details.c_str(), details.size()}};
}

double seconds(Clock::time_point moment) {
  if (moment == Clock::time_point::max()) return std::numeric_limits<double>::infinity();
  return std::chrono::duration<double>(moment.time_since_epoch()).count();
}

nb::list metadata(const Handle& self) {
  nb::list pairs;
  for (const auto& [key, value] : self.rpc->metadata()) {
    const bool binary = key.size() > 4 && key.compare(key.size() - 4, 4, "-bin") == 0;
    nb::object text = nb::steal(PyUnicode_DecodeLatin1(value.data(), value.size(), nullptr));
    pairs.append(nb::make_tuple(
        key, binary ? nb::object(nb::bytes(value.data(), value.size())) : text));
  }
  return pairs;
}

// A reply on its way to a call: a message, or a status in its stead.
struct Answer {
  std::shared_ptr<Rpc> rpc;
  bool ok;
  grpc::ByteBuffer content;
  grpc::Status status;
};

Answer to_answer(const Handle& call, nb::handle reply) {
  if (PyBytes_Check(reply.ptr())) return {call.rpc, true, from_python(reply), {}};
  const auto status = nb::cast<nb::tuple>(reply);
  return {call.rpc, false, {},
          to_status(nb::cast<int>(status[0]), nb::cast<std::string>(status[1]),
                    nb::cast<nb::bytes>(status[2]))};
}

class PyServer {
 public:
  PyServer(const Options& options, const nb::dict& methods, nb::object answer, nb::object handle)
      : functions_(std::make_shared<Functions>(Functions{std::move(answer), std::move(handle)})) {
    std::unordered_map<std::string, Method> table;
    for (const auto& [name, kind] : methods) {
      table[nb::cast<std::string>(name)] = {names_.size(), static_cast<Kind>(nb::cast<int>(kind))};
      names_.append(name);
    }
    std::function<void(std::shared_ptr<Rpc>)> lead;
    if (!functions_->handle.is_none()) lead = [this](auto rpc) { this->lead(std::move(rpc)); };
    nb::gil_scoped_release unlocked;
    server_ = std::make_unique<Server>(options, std::move(table), std::move(lead));
  }

  ~PyServer() {
    nb::gil_scoped_release unlocked;
    server_.reset();
  }

  int port() const { return server_->port(); }
  std::size_t open() const { return server_->lanes().open; }
  std::uint64_t refused() const { return server_->lanes().refused; }
  std::uint64_t dropped() const { return server_->lanes().dropped; }

  nb::list take(std::size_t most) {
    std::vector<std::shared_ptr<Rpc>> taken;
    {
      nb::gil_scoped_release unlocked;
      taken = wait(most);
    }
    nb::list calls;
    for (auto& rpc : taken) calls.append(handle(std::move(rpc)));
    return calls;
  }

  nb::list events() {
    std::vector<Event> taken;
    {
      nb::gil_scoped_release unlocked;
      taken = server_->lanes().events.take(SIZE_MAX);
    }
    nb::list told;
    for (auto& event : taken) {
      const auto id = event.rpc->id();
      nb::object payload = event.what == What::kCall      ? handle(std::move(event.rpc))
                           : event.what == What::kMessage ? nb::object(to_python(event.content))
                                                          : nb::none();
      told.append(nb::make_tuple(static_cast<int>(event.what), id, payload));
    }
    return told;
  }

  void reply(const nb::list& calls, const nb::list& replies) {
    if (calls.size() != replies.size()) throw nb::value_error("one reply is wanted for each call");
    std::vector<Answer> answers;
    answers.reserve(calls.size());
    for (std::size_t i = 0; i < calls.size(); ++i) {
      if (!replies[i].is_none()) {
        answers.push_back(to_answer(*nb::inst_ptr<Handle>(calls[i]), replies[i]));
      }
    }
    nb::gil_scoped_release unlocked;
    for (auto& [rpc, ok, content, status] : answers) {
      ok ? rpc->reply(std::move(content)) : rpc->finish(std::move(status));
    }
  }

  void shutdown(double grace_s) {
    {
      nb::gil_scoped_release unlocked;
      server_->shutdown(grace_s);
    }
    functions_->answer.reset();
    functions_->handle.reset();
  }

 private:
  // The calls that wait, without those whose callers have left. None: the lane is closed.
  std::vector<std::shared_ptr<Rpc>> wait(std::size_t most) {
    auto& lanes = server_->lanes();
    for (;;) {
      auto taken = lanes.calls.take(most);
      if (taken.empty()) return taken;
      const auto left = std::remove_if(taken.begin(), taken.end(),
                                       [](const auto& rpc) { return rpc->over(); });
      lanes.dropped += taken.end() - left;
      taken.erase(left, taken.end());
      if (!taken.empty()) return taken;
    }
  }

  // In a thread of gRPC's.
  void lead(std::shared_ptr<Rpc> rpc) {
    if (rpc->over()) return;
    Guest guest;
    const auto work = functions_->handle;
    if (!work.is_valid()) return;
    try {
      nb::list calls;
      calls.append(handle(std::move(rpc)));
      work(calls);
    } catch (nb::python_error& error) {
      error.discard_as_unraisable("a call's handler");
    }
  }

  nb::object handle(std::shared_ptr<Rpc> rpc) {
    const auto method = rpc->method();
    return nb::cast(Handle(std::move(rpc), names_[method], functions_));
  }

  std::unique_ptr<Server> server_;
  nb::list names_;
  std::shared_ptr<Functions> functions_;
};

}  // namespace

NB_MODULE(_native, module) {
  // Strangers' broken connections are no news. GRPC_VERBOSITY brings gRPC's own log back.
  if (!std::getenv("GRPC_VERBOSITY")) gpr_set_log_function([](gpr_log_func_args*) {});

  nb::class_<Handle>(module, "Call")
      .def_prop_ro("id", [](const Handle& self) { return self.rpc->id(); })
      .def_prop_ro("method", [](const Handle& self) { return self.method; })
      .def_prop_ro("content", [](const Handle& self) { return to_python(self.rpc->request()); })
      .def_prop_ro("arrived", [](const Handle& self) { return seconds(self.rpc->arrived()); })
      .def_prop_ro("deadline", [](const Handle& self) { return seconds(self.rpc->deadline()); })
      .def_prop_ro("metadata", &metadata)
      .def_prop_ro("peer", [](const Handle& self) { return self.rpc->peer(); })
      .def("cancelled", [](const Handle& self) { return self.rpc->over(); })
      .def("answer",
           [](nb::handle_t<Handle> self, nb::object reply) {
             const auto answer = nb::inst_ptr<Handle>(self)->functions->answer;
             if (answer.is_valid()) answer(self, reply);
           })
      .def("read", [](const Handle& self) { self.rpc->read(); })
      .def("write",
           [](const Handle& self, const nb::bytes& content) {
             self.rpc->write(from_python(content));
           })
      .def("finish", [](const Handle& self, int code, const std::string& message,
                        const nb::bytes& details) {
        self.rpc->finish(to_status(code, message, details));
      });

  nb::class_<PyServer>(module, "Server")
      .def(
          "__init__",
          [](PyServer* self, std::string address, const nb::dict& methods,
             std::map<std::string, int> arguments, nb::object answer, std::size_t most_calls,
             std::size_t most_bytes, nb::object handle, const nb::bytes& certificate, const nb::bytes& key,
             const nb::bytes& client_authority) {
            const auto text = [](const nb::bytes& pem) { return std::string(pem.c_str(), pem.size()); };
            const Options options{std::move(address), std::move(arguments), text(certificate),
                                  text(key), text(client_authority), most_calls, most_bytes};
            new (self) PyServer(options, methods, std::move(answer), std::move(handle));
          },
          "address"_a, nb::kw_only(), "methods"_a, "arguments"_a, "answer"_a, "most_calls"_a, "most_bytes"_a,
          "handle"_a.none() = nb::none(), "certificate"_a = nb::bytes("", 0), "key"_a = nb::bytes("", 0),
          "client_authority"_a = nb::bytes("", 0))
      .def_prop_ro("port", &PyServer::port)
      .def_prop_ro("open", &PyServer::open)
      .def_prop_ro("refused", &PyServer::refused)
      .def_prop_ro("dropped", &PyServer::dropped)
      .def("take", &PyServer::take, "most"_a)
      .def("events", &PyServer::events)
      .def("reply", &PyServer::reply, "calls"_a, "replies"_a)
      .def("shutdown", &PyServer::shutdown, "grace_s"_a);
}

}  // namespace tutelage
