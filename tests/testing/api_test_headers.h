// What most tests of the server and the client read, precompiled under the
// sanitizer presets like test_headers.h.
#pragma once

#include "google/protobuf/message.h"
#include "grpcpp/grpcpp.h"
#include "sparseserve/v1/inference_service.grpc.pb.h"
#include "tests/testing/test_headers.h"
