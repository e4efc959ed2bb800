#pragma once

namespace sparseserve {

// Full names of what this server serves, as logs and metrics have them.
inline constexpr char kGenerateMethod[] =
    "sparseserve.v1.InferenceService/Generate";
inline constexpr char kStreamGenerateMethod[] =
    "sparseserve.v1.InferenceService/StreamGenerate";
inline constexpr char kTokenizeMethod[] =
    "sparseserve.v1.InferenceService/Tokenize";
inline constexpr char kDetokenizeMethod[] =
    "sparseserve.v1.InferenceService/Detokenize";
inline constexpr char kExplainAttentionMethod[] =
    "sparseserve.v1.InferenceService/ExplainAttention";
inline constexpr char kListModelsMethod[] =
    "sparseserve.v1.ModelService/ListModels";
inline constexpr char kGetModelMethod[] =
    "sparseserve.v1.ModelService/GetModel";
inline constexpr char kDrainMethod[] = "sparseserve.v1.AdminService/Drain";
inline constexpr char kFlushPrefixCacheMethod[] =
    "sparseserve.v1.AdminService/FlushPrefixCache";
inline constexpr char kReloadSecurityFilesMethod[] =
    "sparseserve.v1.AdminService/ReloadSecurityFiles";

inline constexpr const char* kMethodNames[] = {
    kGenerateMethod,         kStreamGenerateMethod,
    kTokenizeMethod,         kDetokenizeMethod,
    kExplainAttentionMethod, kListModelsMethod,
    kGetModelMethod,         kDrainMethod,
    kFlushPrefixCacheMethod, kReloadSecurityFilesMethod};

// Of the services for callers, for health checks.
inline constexpr const char* kServiceNames[] = {
    "sparseserve.v1.InferenceService", "sparseserve.v1.ModelService"};

}  // namespace sparseserve
