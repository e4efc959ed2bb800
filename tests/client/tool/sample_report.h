#pragma once

namespace sparseserve {

// What a server with a plan may say on /console.json.
inline constexpr char kSampleReport[] = R"json({
  "uptime_seconds": 7265.5,
  "build": {"version": "0.1.0", "accelerator": "cpu", "simd": "amx"},
  "model": {"model_name": "models/small", "architecture": "llama",
            "dtype": "Q4_1"},
  "now": {"ready": true, "draining": false, "running": 3, "waiting": 12,
          "kv_pages": {"used": 30, "cached": 10, "free": 60, "usage": 0.3},
          "memory": [{"device": "cpu", "kind": "weights", "bytes": 94371840},
                     {"device": "cpu", "kind": "kv", "bytes": 1073741824}],
          "resident_bytes": 1500000000,
          "guard_states": {"fast": "demoted"}},
  "minute": {
    "seconds": 60,
    "time_to_first_token": {"count": 56, "p50": 0.2304, "p95": 1.25,
                            "p99": 2.4},
    "inter_token_latency": {"count": 0, "p50": null, "p95": null, "p99": null},
    "targets": {"time_to_first_token": {"met": 55, "missed": 1},
                "total": {"met": 0, "missed": 0}},
    "finished": {"stop": 50, "length": 6, "error": 0},
    "rejected": {"queue_full": 0},
    "stage_seconds": {"attention": 1.5, "mlp": 4.5},
    "prefix_query_tokens": 1000, "prefix_hit_tokens": 640,
    "preemptions": 2, "evicted_pages": 7,
    "phases": {
      "prefill": {"density": 0.394,
                  "heads": {"dense": 25, "xattention": 75, "quest": 0}},
      "decode": {"density": null,
                 "heads": {"dense": 10, "xattention": 0, "quest": 0}}},
    "recall": {"xattention": {"count": 480, "mean": 0.957, "p5": 0.81}},
    "plans": {"fast": {"prefill_requests": 40, "decode_requests": 0,
                       "targets": {"met": 3, "missed": 1}}}
  },
  "all": {
    "time_to_first_token": {"count": 5600, "p50": 0.5, "p95": 1, "p99": 2},
    "finished": {"stop": 5000},
    "phases": {"prefill": {"heads": {"dense": 1, "xattention": 1, "quest": 0}},
               "decode": {"heads": {"dense": 1, "xattention": 0, "quest": 0}}}
  },
  "history": {"running": [0, 1, 2, 4, 3],
              "output_tokens_per_second": [0, 10.5, 41.25],
              "first_token_p50": [null, 0.1, 0.2304]},
  "recent_fallbacks": [{"seconds_ago": 61.5, "phase": "prefill",
                        "reason": "low_recall", "requests": 2}]
})json";

}  // namespace sparseserve
