#include "server.h"

#include <chrono>
#include <stdexcept>

namespace tutelage {
namespace {

std::shared_ptr<grpc::ServerCredentials> credentials(const Options& options) {
  if (options.certificate.empty()) return grpc::InsecureServerCredentials();
  grpc::SslServerCredentialsOptions tls(
      options.client_authority.empty()
          ? GRPC_SSL_DONT_REQUEST_CLIENT_CERTIFICATE
          : GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY);
  tls.pem_root_certs = options.client_authority;
  tls.pem_key_cert_pairs.push_back({options.key, options.certificate});
  return grpc::SslServerCredentials(tls);
}

}  // namespace

Server::Server(const Options& options, std::unordered_map<std::string, Method> methods,
               std::function<void(std::shared_ptr<Rpc>)> lead)
    : methods_(std::move(methods)),
      lanes_(std::make_shared<Lanes>(options.most_calls, options.most_bytes)) {
  lanes_->lead = std::move(lead);
  grpc::ServerBuilder builder;
  for (const auto& [name, value] : options.arguments) builder.AddChannelArgument(name, value);
  builder.AddListeningPort(options.address, credentials(options), &port_);
  builder.RegisterCallbackGenericService(this);
  server_ = builder.BuildAndStart();
  if (!server_ || !port_) throw std::runtime_error("cannot listen on " + options.address);
}

Server::~Server() { shutdown(0); }

void Server::shutdown(double grace_s) {
  if (!server_) return;
  const auto grace = std::chrono::duration_cast<std::chrono::system_clock::duration>(
      std::chrono::duration<double>(grace_s));
  server_->Shutdown(std::chrono::system_clock::now() + grace);
  server_.reset();
  lanes_->calls.close();
  lanes_->events.close();
}

grpc::ServerGenericBidiReactor* Server::CreateReactor(
    grpc::GenericCallbackServerContext* context) {
  const auto found = methods_.find(context->method());
  return Rpc::start(lanes_, found == methods_.end() ? nullptr : &found->second, context);
}

}  // namespace tutelage
