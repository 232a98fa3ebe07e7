// A listening server whose calls wait in two lanes for Python.
#pragma once

#include <map>
#include <string>
#include <unordered_map>

#include "rpc.h"

namespace tutelage {

struct Options {
  std::string address;  // host:port; port 0 lets the system choose
  std::map<std::string, int> arguments;  // gRPC's channel arguments
  std::string certificate, key;          // PEM; empty: no TLS
  std::string client_authority;          // PEM; clients must show a certificate it signed
  std::size_t most_calls;                // that may wait; more are RESOURCE_EXHAUSTED
  std::size_t most_bytes;                // of their messages together
};

class Server final : private grpc::CallbackGenericService {
 public:
  // Listens at once. Throws std::runtime_error when the address cannot be had.
  Server(const Options& options, std::unordered_map<std::string, Method> methods,
         std::function<void(std::shared_ptr<Rpc>)> lead);
  ~Server() override;
  Server(const Server&) = delete;
  Server& operator=(const Server&) = delete;

  int port() const { return port_; }
  Lanes& lanes() { return *lanes_; }

  // Takes no new calls, gives those under way so many seconds, cancels the rest, and closes the
  // lanes. Blocks until no call is left, and no thread of gRPC's that has met Python.
  void shutdown(double grace_s);

 private:
  grpc::ServerGenericBidiReactor* CreateReactor(
      grpc::GenericCallbackServerContext* context) override;

  const std::unordered_map<std::string, Method> methods_;
  const std::shared_ptr<Lanes> lanes_;
  int port_ = 0;
  std::unique_ptr<grpc::Server> server_;
};

}  // namespace tutelage
