#pragma once

#include <memory>
#include <vector>

#include "grpcpp/ext/proto_server_reflection_plugin.h"
#include "grpcpp/impl/server_builder_option.h"
#include "grpcpp/impl/server_builder_plugin.h"

namespace sparseserve {

// Takes reflection from a server: whoever links gRPC's library of it has it in
// every server of the process.
class WithoutReflection final : public grpc::ServerBuilderOption {
 public:
  void UpdateArguments(grpc::ChannelArguments*) override {}
  void UpdatePlugins(std::vector<std::unique_ptr<grpc::ServerBuilderPlugin>>*
                         plugins) override {
    std::erase_if(
        *plugins, [](const std::unique_ptr<grpc::ServerBuilderPlugin>& plugin) {
          return dynamic_cast<grpc::reflection::ProtoServerReflectionPlugin*>(
                     plugin.get()) != nullptr;
        });
  }
};

}  // namespace sparseserve
